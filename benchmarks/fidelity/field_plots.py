"""Plots of what `demo_model.field` and `demo_model.field.missed` measured."""

from pathlib import Path

from benchmarks.fidelity.field import OURS, PREDICTORS, Row, interval, mean


def plot(rows: list[Row], path: Path) -> None:
    """Attention work against PSNR: a line for each method."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["group"] == "field":
            lines.setdefault(row["method"], []).append(row)
    for method, points in lines.items():
        points.sort(key=lambda row: mean(row["work"]))
        ours = method in (*OURS, "paper") or method.startswith(("exact", "retained mass", "marginal mass"))
        spans = [interval(row["psnr"]) for row in points]
        middle = [mean(row["psnr"]) for row in points]
        axes.errorbar(
            [mean(row["work"]) for row in points],
            middle,
            yerr=[[m - s[i] if i == 0 else s[i] - m for m, s in zip(middle, spans, strict=True)] for i in (0, 1)],
            label=method,
            marker="o" if ours else "x",
            linestyle="-" if ours else "--",
            capsize=2,
        )
    axes.set(xlabel="attention work of the whole denoising, routers included (dense = 1)", ylabel="PSNR to dense, dB")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def plot_predictors(rows: list[Row], path: Path, names: tuple[str, str]) -> None:
    """Two numbers of what each row loses against its PSNR, a mark for each method."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), names, strict=True):
        methods: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            value = row["lost"][name]
            point = (1 - value if name == "recall" else max(value, 1e-5), mean(row["psnr"]))
            methods.setdefault(row["method"], []).append(point)
        for place, (method, points) in enumerate(methods.items()):
            axes.plot(*zip(*points, strict=True), "osvD^P*Xph<"[place % 11], label=method, linestyle="")
        words = PREDICTORS[name]
        axes.set(xscale="log", xlabel=f"1 - {words}" if name == "recall" else words, ylabel="PSNR to dense, dB")
        axes.grid(alpha=0.3, which="both")
    figure.axes[1].legend(fontsize="x-small")
    figure.savefig(path, dpi=130)


def plot_missed(missed: Row, path: Path) -> None:
    """Queries that lose nearly all, by head, and one of them."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    shares, row, block = figure.subplots(1, 3)
    for name, heads in missed["by_head"].items():
        places = [head["layer"] + head["head"] / 4 for head in heads]
        shares.plot(places, [head["starved"] for head in heads], "o", label=name, alpha=0.7)
    shares.set(xlabel="layer, its heads side by side", ylabel="queries that keep under a tenth of their attention")
    shares.legend(fontsize="small", title=f"blocks chosen by, density {missed['density']}")
    shares.grid(alpha=0.3)
    example = missed["example"]
    place, ticks = example["place"], range(len(example["row_mass"]))
    row.bar(ticks, example["query_mass"], color="tab:orange", alpha=0.5, label="the query alone")
    row.bar(ticks, example["row_mass"], color="tab:blue", label="its 64 queries, exact")
    row.plot(ticks, example["row_score"], "x", color="tab:red", label="their pooled score")
    row.set(xlabel="key block", ylabel="share of the attention", yscale="log", ylim=(1e-4, 1.5))
    row.legend(fontsize="small")
    image = block.imshow(example["tokens"], cmap="magma", aspect="equal")
    block.set(title=f"the missed block: layer {place['layer']}, head {place['head']}", xlabel="key", ylabel="query")
    figure.colorbar(image, ax=block, label="attention weight")
    figure.savefig(path, dpi=130)


def plot_errors(rows: list[Row], path: Path, shown: tuple[str, ...]) -> None:
    """The spatial spectrum of some rows' errors, and the size of all rows' errors against PSNR."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    named = {row["name"]: row for row in rows}
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    waves, costs = figure.subplots(1, 2)
    for name in shown:
        if name in named:
            waves.plot(named[name]["spectrum"]["error"], "o-", label=f"error, {name}")
    known = next(row for row in rows if "spectrum" in row)
    waves.plot(known["spectrum"]["dense"], "k--", label="the dense output itself")
    waves.set(xlabel="spatial frequency, cycles a picture", ylabel="share of the energy")
    waves.legend(fontsize="x-small")
    waves.grid(alpha=0.3)
    for name, mark in (("error", "o"), ("shared_error", "s"), ("private_error", "x")):
        points = [(mean(row["by_clip"][name]), mean(row["psnr"])) for row in rows if "by_clip" in row]
        costs.plot(*zip(*points, strict=True), mark, label=PREDICTORS[name], linestyle="")
    costs.set(xscale="log", xlabel="error of the attention's output, relative", ylabel="PSNR to dense, dB")
    costs.legend(fontsize="small")
    costs.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)
