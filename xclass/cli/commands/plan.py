"""A plan for several ranks, as tables for a person: ``xclass estimate --ranks N``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xclass.cli.output import print_line, print_table

if TYPE_CHECKING:
    from xclass.estimate import Plan


def show_plan(found: Plan) -> None:
    """What each rank needs and sends, what a step takes, whether it fits."""
    from xclass.estimate.parts import PLACES, Place, by_component, readable, total

    places: list[Place] = [place for place in PLACES[:2] if total(found.parts, place)]
    needed = [part for part in found.parts if not part.cache]
    columns = {place: by_component(needed, place) for place in places}
    names = list(dict.fromkeys(name for column in columns.values() for name, count in column.items() if count))
    rows = [[name, *(_size(columns[place].get(name, 0)) for place in places)] for name in names]
    rows.append(["needed at once", *(readable(total(found.parts, place)) for place in places)])
    job, cluster = found.job, found.cluster
    print_table(["each rank", *places], rows, f"{job.items:,} items, {job.queries:,} queries, {cluster.ranks} ranks")
    print_line(f"\nAll ranks share a disk: {readable(total(found.parts, 'disk'))}.\n")
    print_table(["a step, each rank", ""], _step(found), None)
    print_line(f"\n{_answer(found)}")


def _size(count: int) -> str:
    from xclass.estimate.parts import readable

    return readable(count) if count else ""


def _step(found: Plan) -> list[list[str]]:
    from xclass.estimate.parts import readable
    from xclass.runtime.progress import duration

    sent = found.exchange
    rows = [
        ["different rows asked for", ", ".join(f"{name} {count:,}" for name, count in sent.rows.items())],
        ["sent: numbers", readable(sent.numbers_bytes)],
        ["sent: rows", readable(sent.rows_bytes)],
        ["sent: gradients", readable(sent.gradients_bytes)],
        ["sent: sums", readable(sent.sums_bytes)],
        [f"{sent.exchanges} exchanges", f"{sent.seconds(found.cluster) * 1000:.2f} ms"],
    ]
    if found.step_s is None or found.compute_s is None:
        return rows
    return [
        *rows,
        *([] if found.prepare_s is None else [["preparing, beside it", f"{found.prepare_s * 1000:.2f} ms"]]),
        ["computing", f"{found.compute_s * 1000:.2f} ms"],
        ["step", f"{found.step_s * 1000:.2f} ms"],
        ["positives/s, all ranks", f"{found.positives_per_step / found.step_s:,.0f}"],
        [f"training, {found.steps:,} steps", duration(found.steps * found.step_s)],
    ]


def _answer(found: Plan) -> str:
    if found.answer is None:
        return "Whether it fits: give --device-memory."
    return {
        "fits": "It fits.",
        "tight": "It may not fit: more is expected to be needed than a device has.",
        "does not fit": "It does not fit: more ranks, fewer dimensions, or tables in bfloat16 or in host memory.",
    }[found.answer]
