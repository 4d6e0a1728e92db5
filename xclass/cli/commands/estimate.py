"""``xclass estimate DATASET --config FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xclass.cli.amounts import bytes_of, count_of, seconds_of
from xclass.cli.commands.plan import show_plan
from xclass.cli.options import MOST_RANKS, AsJson, ConfigFile, Device, Overrides, one_of
from xclass.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from xclass.estimate import Estimate


RANKS = "Plan for N processes that train together (torchrun); see docs/planning.md."
Ranks = Annotated[int | None, typer.Option(min=1, max=MOST_RANKS, metavar="N", help=RANKS, show_default=False)]
DeviceMemory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="With --ranks: memory of each device, e.g. 80GiB.", show_default=False),
]
Bandwidth = Annotated[
    str, typer.Option(metavar="RATE", help="With --ranks: send rate of a rank, e.g. 25GB/s or 200Gbit/s.")
]
Latency = Annotated[str, typer.Option(metavar="TIME", help="With --ranks: time of an exchange before its first byte.")]
Flops = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="With --ranks: operations per second of a device, e.g. 40T. If left out, a step is measured here.",
        show_default=False,
    ),
]
MemoryBandwidth = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="With --flops: memory traffic of a device, e.g. 3TB/s.", show_default=False),
]
Cores = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="With --ranks: cores of each rank, e.g. 1 or 0.5. If left out: as many as this process may use.",
        show_default=False,
    ),
]


def estimate(
    dataset: Annotated[
        str,
        typer.Argument(
            help="A directory that `xclass ingest` made; with --ranks also planted:items=…,queries=…,pairs=…"
        ),
    ],
    config: ConfigFile,
    overrides: Overrides = [],  # noqa: B006  Typer wants a list; it is never changed
    out: Annotated[Path, typer.Option(help="Where the run would be written; its disk is checked.")] = Path("runs"),
    device: Device = "auto",
    calibrate: Annotated[
        bool, typer.Option(help="Train for some seconds on a small part of the data; without this there are no times.")
    ] = True,
    ranks: Ranks = None,
    device_memory: DeviceMemory = None,
    bandwidth: Bandwidth = "10GB/s",
    latency: Latency = "30us",
    flops: Flops = None,
    memory_bandwidth: MemoryBandwidth = None,
    cores: Cores = None,
    as_json: AsJson = False,
) -> None:
    """Say what training would need (memory, disk and time by component) and whether it fits on this machine."""
    one_of("--device", device, ("auto", "cpu", "cuda"))
    if ranks is None and any(given is not None for given in (device_memory, flops, memory_bandwidth, cores)):
        wanted = "--device-memory, --flops, --memory-bandwidth and --cores go with it"
        raise typer.BadParameter(wanted, param_hint="'--ranks'")

    from xclass.data.dataset import open_dataset
    from xclass.estimate import estimate as measure
    from xclass.runs.train import resolve_config
    from xclass.training.build import choose_device

    settings = resolve_config(config, overrides)
    if ranks is not None:
        from xclass.estimate import Cluster, plan_for

        rates = None if flops is None else count_of("--flops", flops)
        reads = None if memory_bandwidth is None else bytes_of("--memory-bandwidth", memory_bandwidth)
        memory = None if device_memory is None else round(bytes_of("--device-memory", device_memory))
        sends, waits = bytes_of("--bandwidth", bandwidth), seconds_of("--latency", latency)
        cluster = Cluster(ranks, memory, sends, waits, rates, reads, cores)
        planned = plan_for(dataset, settings, device, cluster, out, calibrate)
        if as_json:
            print_json(planned.to_json())
        else:
            show_plan(planned)
        return
    found = measure(open_dataset(dataset), settings, choose_device(device), out, calibrate)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


def _show(found: Estimate) -> None:
    from xclass.estimate.parts import PLACES, by_component, cached, readable, total

    used = [place for place in PLACES if total(found.parts, place) or place != "accelerator"]
    needed = [part for part in found.parts if not part.cache]
    columns = {place: by_component(needed, place) for place in used}
    names = list(dict.fromkeys(name for column in columns.values() for name, count in column.items() if count))
    rows = [[name, *(_size(columns[place].get(name, 0)) for place in used)] for name in names]
    rows.append(["needed at once", *(readable(total(found.parts, place)) for place in used)])
    rows.append(["available", *(readable(found.available.of(place)) for place in used)])
    print_table(["component", *used], rows, f"{found.job.items:,} items, {found.job.queries:,} queries, {found.device}")
    if cached(found.parts):
        print_line(f"\nBeside it, files stay in memory as far as there is room: {readable(cached(found.parts))}.")
    if found.time_s is not None and found.rates is not None:
        print_line()
        print_table(["time", ""], _times(found), None)
    print_line(f"\n{_answer(found)}")


def _size(count: int) -> str:
    from xclass.estimate.parts import readable

    return readable(count) if count else ""


def _times(found: Estimate) -> list[list[str]]:
    from xclass.runtime.progress import duration

    assert found.time_s is not None and found.rates is not None
    times, phases = found.time_s, found.rates.phase_ms
    return [
        ["start", duration(times["start_s"])],
        ["step", f"{times['step_s'] * 1000:.2f} ms ({', '.join(f'{k} {v:.2f}' for k, v in phases.items())})"],
        ["positives/s", f"{times['positives_per_s']:,.0f}"],
        ["epoch", duration(times["epoch_s"])],
        [f"training, {found.steps:,} steps", duration(times["train_s"])],
        ["validation", duration(times["validation_s"])],
        ["checkpoint", duration(times["checkpoint_s"])],
        ["total, all epochs", duration(times["total_s"])],
    ]


def _answer(found: Estimate) -> str:
    from xclass.estimate.parts import readable

    answer = found.verdict
    lines = [
        {
            "fits": "It fits.",
            "tight": "It may not fit: more is expected to be needed than is available now.",
            "does not fit": "It does not fit.",
        }[answer.answer]
    ]
    for change in answer.changes:
        saved, needed = readable(change.saved_bytes), readable(change.needed_bytes)
        lines.append(f"  {change.setting}: {saved} less {change.place}, {needed} in all ({change.then})")
    return "\n".join(lines)
