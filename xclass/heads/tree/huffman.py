"""Huffman's merging of the rarest, as one function that runs as it stands and is compiled where numba is."""


def merge(weights, arity, sums, above):  # type: ignore[no-untyped-def]  # compiled as it stands
    """Parents in the order in which they are made, from weights that rise: two queues, both of which rise."""
    num_leaves, made, leaf, tree = len(weights), 0, 0, 0
    take = 2 + (num_leaves - 2) % (arity - 1)
    while num_leaves - leaf + made - tree > 1:
        total = weights[0] * 0
        for _ in range(take):
            if tree >= made or (leaf < num_leaves and weights[leaf] <= sums[tree]):
                total += weights[leaf]
                above[leaf] = made
                leaf += 1
            else:
                total += sums[tree]
                above[num_leaves + tree] = made
                tree += 1
        sums[made] = total
        made += 1
        take = arity
