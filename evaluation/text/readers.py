"""A reader study as text for the terminal."""

from collections.abc import Iterator
from math import isnan

from rich import box
from rich.table import Table

from evaluation.tables.readers import MODEL, ReaderTables
from evaluation.text.format import counted, difference, estimate, number, p_value


def reader_table(tables: ReaderTables) -> Table:
    """AUCs of models and readers on the same patients."""
    table = Table(box=box.HORIZONTALS, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    for name in ("pass", "patients\n(events)", "AUC\n(95 % CI)", "seconds\na patient"):
        table.add_column(name, no_wrap=True)
    rows = tables.aucs.to_dict("records")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(
            str(row["name"]),
            "" if row["kind"] == MODEL else f"{row['pass']}",
            f"{row['patients']} ({row['events']})",
            estimate(row),
            "" if isnan(row["seconds"]) else number(row["seconds"], 0),
            end_section=following is not None and following["kind"] != row["kind"],
        )
    return table


def reader_sentences(tables: ReaderTables) -> Iterator[str]:
    """What the models changed, reader by reader and in the mean, and what is undefined."""
    for row in tables.aucs.to_dict("records"):
        if row["reason"]:
            named = " ".join(filter(None, (str(row["name"]), str(row["pass"]))))
            yield f"– {named}: {row['reason']}"
    for row in tables.differences.to_dict("records"):
        if isnan(row["difference"]):
            yield f"{row['reader']}, with less without: undefined ({row['reason']})."
        else:
            yield (
                f"{row['reader']}, with less without: {difference(row)}, {p_value(row['p_value'])} "
                "(DeLong)."
            )
    (mean,) = tables.mrmc.to_dict("records")
    if isnan(mean["difference"]):
        yield f"Mean of readers, with less without: undefined ({mean['reason']})."
        return
    yield (
        f"Mean of {counted(mean['readers'], 'reader')}, with less without: {difference(mean)}, "
        f"F(1, {number(mean['df'], 1)}) = {number(mean['f'], 2)}, {p_value(mean['p_value'])} "
        "(Obuchowski & Rockette with Hillis' degrees of freedom; readers and patients at random)."
    )
