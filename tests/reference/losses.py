"""Slow plain losses: one query, one positive, one exponential at a time, in Python numbers.

Every function is analytic in its logits, so that :func:`gradient` can differentiate it by a complex step, exact to
rounding and without autograd. ``pos`` is flat, ``neg`` a list of rows, ``offsets`` cut the positives; a masked negative
holds the lowest float. Weights are divided by their sum within a query, except where said.
"""

import cmath
import math
import sys

MASK = -sys.float_info.max
STEP = 1e-30


def softplus(x):
    """log(1 + e^x) without overflow."""
    return x + cmath.log(1 + cmath.exp(-x)) if complex(x).real > 0 else cmath.log(1 + cmath.exp(x))


def living(row):
    """The negatives that are not masked."""
    return [x for x in row if complex(x).real > MASK]


def shares(offsets, query, weights, normalise=True):
    """(position, share) of a query's positives; shares sum to 1, or are the weights; nothing where all weights are 0."""
    positions = range(offsets[query], offsets[query + 1])
    given = [(p, 1.0 if weights is None else weights[p]) for p in positions]
    total = sum(weight for _, weight in given) if normalise else 1.0
    return [(p, weight / total) for p, weight in given if weight > 0]


def real(values):
    """Plain floats where nothing was differentiated."""
    return [value.real if isinstance(value, complex) and value.imag == 0 else value for value in values]


def sampled_softmax(
    pos, neg, offsets, weights=None, positive=True, power=1.0, joint=False, corrected=False, normalise=True
):
    """Each positive on its own against S = (sum e^neg)^power, or (joint) all of them in one denominator.

    ``positive`` false: log S - pos. ``corrected``: that times the constant (1 - P), P = e^pos / (e^pos + S).
    """
    losses = []
    for query, row in enumerate(neg):
        chosen = shares(offsets, query, weights, normalise)
        powered = sum(cmath.exp(logit) for logit in living(row)) ** power if living(row) else 0.0
        total = 0.0
        if joint and positive and chosen:
            z = powered + sum(cmath.exp(pos[p]) for p, _ in chosen)
            total = cmath.log(z) - sum(share * pos[p] for p, share in chosen)
        elif positive and not corrected:
            total = sum(share * (cmath.log(cmath.exp(pos[p]) + powered) - pos[p]) for p, share in chosen)
        elif living(row):
            for p, share in chosen:
                miss = 1 - (cmath.exp(pos[p]) / (cmath.exp(pos[p]) + powered)).real if corrected else 1.0
                total += share * miss * (cmath.log(powered) - pos[p])
        losses.append(total)
    return real(losses)


def importance(pos, neg, offsets, weights=None):
    """Estimated log Z, log sum of r_j = e^neg, less each positive's score. Bengio & Senecal 2003."""
    losses = []
    for query, row in enumerate(neg):
        total = 0.0
        for p, share in shares(offsets, query, weights):
            ratios = [cmath.exp(logit) for logit in living(row)]
            total += share * (cmath.log(sum(ratios)) - pos[p]) if ratios else 0.0
        losses.append(total)
    return real(losses)


def importance_gradient(scores, target, sample, q):
    """Their estimate of d loss / d score_i of a query, item by item: sum_j r_j [i = j] / sum_j r_j - [i = target]."""
    ratios = [math.exp(scores[j]) / q[j] for j in sample]
    found = [0.0] * len(scores)
    for j, ratio in zip(sample, ratios, strict=True):
        found[j] += ratio / sum(ratios)
    found[target] -= 1.0
    return found


def grown(logits, wanted, block):
    """How many of a query's candidates are taken, block by block, until (sum r)^2 / sum r^2 reaches ``wanted``."""
    for size in range(block, len(logits) + block, block):
        ratios = [math.exp(x) for x in logits[:size]]
        if sum(ratios) ** 2 / sum(r * r for r in ratios) >= wanted:
            return min(size, len(logits)), True
    return len(logits), False


def full_softmax(pos, scores, offsets, weights=None, normalise=True, penalty=0.0, constant=0.0, likelihood=True):
    """Weighted mean over a query's positives of log(sum over all items e^score) - pos.

    With a penalty: plus penalty * (log Z - constant)^2 for a query with positives; without likelihood: log Z is in the
    penalty alone.
    """
    losses = []
    for query, row in enumerate(scores):
        log_z = cmath.log(sum(cmath.exp(score) for score in row))
        mine = list(shares(offsets, query, weights, normalise))
        loss = sum(share * ((log_z if likelihood else 0.0) - pos[p]) for p, share in mine)
        some = any(share > 0 for _, share in mine)
        losses.append(loss + penalty * (log_z - constant) ** 2 * some)
    return real(losses)


def logistic(pos, neg, offsets, weights=None, joint=False, beta=1.0, normalise=True):
    """NCE, sampled logistic and negative sampling: they are one formula of their logits.

    Separate: -share * log sigma(pos)^beta each; joint: cross-entropy of sigma(pos) against the target ``share`` each.
    Then -log(1 - sigma(neg)) of every negative, once.
    """
    losses = []
    for query, row in enumerate(neg):
        chosen = shares(offsets, query, weights, normalise)
        total = 0.0
        for p, share in chosen:
            yes, no = softplus(-pos[p]), softplus(pos[p])
            total += share * yes + (1 - share) * no if joint else share * beta * yes
        if chosen:
            total += sum(softplus(logit) for logit in living(row))
        losses.append(total)
    return real(losses)


def bpr(pos, neg, offsets, weights=None, normalise=True):
    """Mean over negatives of -log sigma(pos - neg), weighted mean over positives."""
    losses = []
    for query, row in enumerate(neg):
        total = 0.0
        for p, share in shares(offsets, query, weights, normalise):
            pairs = [softplus(logit - pos[p]) for logit in living(row)]
            total += share * sum(pairs) / len(pairs) if pairs else 0.0
        losses.append(total)
    return real(losses)


def full_sigmoid(pos, others, offsets, weights=None, joint=False):
    """A sigmoid for every item: weights as they are, every other item once; joint: they are targets of any size."""
    losses = []
    for query, row in enumerate(others):
        chosen = [(p, 1.0 if weights is None else weights[p]) for p in range(offsets[query], offsets[query + 1])]
        chosen = [(p, weight) for p, weight in chosen if weight > 0]
        total = sum(weight * softplus(-pos[p]) + joint * (1 - weight) * softplus(pos[p]) for p, weight in chosen)
        if any(weight > 0 for _, weight in chosen):
            total += sum(softplus(logit) for logit in living(row))
        losses.append(total)
    return real(losses)


def gbce_beta(num_sampled, num_items, calibration):
    """The power alpha * (t * (1 - 1/alpha) + 1/alpha), alpha = K / (N - 1). Petrov & Macdonald 2023, eq. 16."""
    alpha = num_sampled / (num_items - 1)
    return alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)


def top_weights(pos_scores, neg_scores, log_q, offsets, k, edge):
    """sigma((s_p - beta_b) / edge) of each positive. Yang et al. 2025 (SL@K).

    beta_b is the score of the item in place k: the largest score s at which the number of items at or above it, a
    negative j counted exp(-log_q[b][j]) times and a positive once, is k (to a millionth); the lowest if it never is.
    """
    result = []
    for query, row in enumerate(neg_scores):
        own = [pos_scores[p] for p in range(offsets[query], offsets[query + 1])]
        items = [(s, 1.0) for s in own]
        items += [(s, math.exp(-q)) for s, q in zip(row, log_q[query], strict=True) if s > MASK]
        reaching = [s for s, _ in items if sum(n for other, n in items if other >= s) >= k * (1 - 1e-6)]
        beta = max(reaching) if reaching else min((s for s, _ in items), default=0.0)
        result += [1 / (1 + math.exp(-(s - beta) / edge)) for s in own]
    return result


def gradient(loss, pos, neg, offsets, weights=None):
    """(d sum(loss) / d pos, d sum(loss) / d neg), one complex step at a time."""

    def slope(flat, rows):
        return sum(complex(value).imag for value in loss(flat, rows, offsets, weights)) / STEP

    by_pos, by_neg = [], []
    for p in range(len(pos)):
        moved = [value + STEP * 1j if i == p else value for i, value in enumerate(pos)]
        by_pos.append(slope(moved, neg))
    for query, row in enumerate(neg):
        by_neg.append([])
        for column in range(len(row)):
            moved = [value + STEP * 1j if j == column else value for j, value in enumerate(row)]
            by_neg[-1].append(slope(pos, [moved if b == query else other for b, other in enumerate(neg)]))
    return by_pos, by_neg
