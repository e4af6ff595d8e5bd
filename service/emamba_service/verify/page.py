"""The report as one self-contained HTML page: inline style and plots, nothing loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from emamba_service.verify.figures import (
    ASKED_AGAIN,
    TITLES,
    celsius,
    centimetres,
    energy_mj,
    facts,
    micros,
    per_second,
    place_numbers,
    utc,
    watts,
    whose_speed,
)
from emamba_service.verify.schema import Classes, PoseErrors, Report
from emamba_service.verify.svg import difference_map, joint_bars, latency_plot, rate_plot

__all__ = ["html_page"]

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--card:#f5f6f8;--line:#d9dde3;--ink:#16191d;
--soft:#5b6470;--bar:#2f6fb0;--mark:#1d4f86;--equal:#1a7f45;--different:#c02626;--incomplete:#9a6700}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1e2329;--line:#363d46;
--ink:#e8ebef;--soft:#9aa4b0;--bar:#5b9bd8;--mark:#a9cdf0;--equal:#4cc27f;--different:#ff7a70;
--incomplete:#e0b040}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:940px;margin:0 auto;padding:20px 16px 48px}
header{border-left:6px solid var(--verdict);padding:2px 0 2px 16px;margin-bottom:20px}
h1{margin:0;font-size:30px;line-height:1.2;color:var(--verdict)}
h2{font-size:18px;margin:32px 0 10px}
h3{font-size:14px;margin:0 0 6px}
p{margin:6px 0}
.lead{font-size:17px}
.how{color:var(--soft);font-size:13px;max-width:46em}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:10px}
.card,figure{background:var(--card);border-radius:8px;padding:10px 14px;margin:0}
.card b{display:block;font-size:22px;font-weight:600;line-height:1.25}
.card span{color:var(--soft);font-size:13px}
.plots{display:grid;margin-top:12px;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(320px,100%),1fr));gap:10px}
figure{min-width:0;max-width:500px;padding-bottom:6px}
figcaption{color:var(--soft);font-size:13px}
svg{display:block;width:100%;height:auto;max-width:460px;margin:0 auto}
.scroll{overflow-x:auto;margin-top:10px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:4px 12px 4px 0;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
th{color:var(--soft);font-weight:500}
th.t,td.t{text-align:left}
td.t{white-space:normal;min-width:68px}
header .how{max-width:none}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 16px;margin:0;
font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:520px){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
text{font-size:11px;fill:var(--soft)}
text.value{fill:var(--ink);font-size:12px}
line.grid{stroke:var(--line)}
line.thin{stroke:var(--mark);stroke-width:1.5}
line.thick{stroke:var(--bar);stroke-width:8;opacity:.5}
circle.mark{fill:var(--mark)}
rect.bar{fill:var(--bar)}
rect.ground{fill:var(--ground)}
rect.wrong{fill:var(--different)}
""".strip()


def html_page(report: Report) -> str:
    """The whole page; every text in it is escaped."""
    title = f"{TITLES[report.verdict]}: {report.ran.package.name} on {report.ran.engine.name}"
    body = "\n".join(
        part
        for part in (
            _header(report),
            _cards(report),
            _bits(report),
            _accuracy(report),
            _speed(report),
            _energy(report),
            _temperatures(report),
            _ran(report),
        )
        if part
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n"
        f":root{{--verdict:var(--{report.verdict})}}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(report: Report) -> str:
    ran = report.ran
    package = f"{ran.package.name}/{ran.package.version}"
    what = f"{package} on engine {ran.engine.name}, {ran.data.source}"
    when = f"{utc(ran.started)} to {utc(ran.ended)}"
    return (
        f"<header>\n<h1>{TITLES[report.verdict]}</h1>\n"
        f'<p class="lead">{escape(report.summary)}</p>\n'
        f'<p class="how">{escape(f"{what}, {when}")}</p>\n</header>'
    )


def _cards(report: Report) -> str:
    comparison, accuracy, rows = report.comparison, report.accuracy, report.speed.rows
    cards = [
        (f"{comparison.compared:,}", f"of {comparison.frames:,} frames compared"),
        (f"{comparison.mismatches:,}", "differ"),
        (f"{comparison.missing:,}", "missing"),
    ]
    if isinstance(accuracy.engine, Classes):
        cards.append((f"{accuracy.engine.accuracy:.2%}", "of images classified right"))
    elif accuracy.engine is not None:
        mae, rmse = accuracy.engine.mae_cm, accuracy.engine.rmse_cm
        cards.append((f"{centimetres(mae)} cm", f"MAE; RMSE {centimetres(rmse)} cm"))
    if rows:
        best = max(rows, key=lambda row: row.frames_per_s)
        whose = whose_speed(report)
        cards.append((per_second(best.frames_per_s), f"frames/s at batch {best.batch}{whose}"))
        least = rows[0]
        p50 = micros(least.latency_us["total"].p50)
        cards.append((f"{p50} us", f"median at batch {least.batch}{whose}"))
    cells = "".join(
        f'<div class="card"><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for big, small in cards
    )
    return f'<div class="cards">{cells}</div>'


def _bits(report: Report) -> str:
    comparison = report.comparison
    parts = [f"<h2>Bits</h2>\n{_how(report.obtained['comparison'])}"]
    if comparison.retries:
        calls = "call was" if comparison.retries == 1 else "calls were"
        parts.append(
            f"<p>{comparison.retries:,} {calls} repeated: the engine could not answer.</p>"
        )
    if comparison.first:
        head = ("stage", "frame", "index", "expected", "got", "differing", "asked again")
        rows = [(d.stage, *place_numbers(d), ASKED_AGAIN[d.asked_again]) for d in comparison.first]
        parts.append(_table(head, rows))
    if comparison.localised:
        head = ("first differing stage", "frame", "index", "expected", "got", "differing", "stream")
        rows = [(d.stage, *place_numbers(d), d.stream) for d in comparison.localised]
        parts.append(_table(head, rows))
    if comparison.map is not None:
        caption = "Frames to the right, outputs downwards; fuller where more frames differ"
        parts.append(f'<div class="plots">{_figure(difference_map(comparison.map), caption)}</div>')
    if comparison.problems:
        problems = [(p.reason, str(p.first_frame), str(p.frames)) for p in comparison.problems]
        parts.append(_table(("missing because", "from frame", "frames"), problems))
    parts += [_how(comparison.localise)] if comparison.localise else []
    return "\n".join(parts)


def _accuracy(report: Report) -> str:
    accuracy = report.accuracy
    if accuracy.mirror is None:
        return f"<h2>Accuracy</h2>\n{_how(report.obtained['accuracy'])}"
    if isinstance(accuracy.mirror, Classes):
        return _classes(report, accuracy.mirror)
    errors = (("engine", accuracy.engine), ("mirror", accuracy.mirror))
    rows = [
        (name, f"{e.frames:,}", centimetres(e.mae_cm), centimetres(e.rmse_cm))
        for name, e in errors
        if isinstance(e, PoseErrors)
    ]
    table = _table(("", "frames", "MAE (cm)", "RMSE (cm)"), rows)
    if isinstance(accuracy.engine, PoseErrors):
        table += _table(("engine by", "MAE (cm)", "RMSE (cm)"), _parts(accuracy.engine))
    if accuracy.reason:
        table += _how(f"engine not measured: {accuracy.reason}")
    shown = accuracy.engine if isinstance(accuracy.engine, PoseErrors) else accuracy.mirror
    joints = [(name, e.mae_cm, e.rmse_cm) for name, e in shown.per_joint.items()]
    whose = "engine" if accuracy.engine else "mirror"
    caption = f"cm by joint, {whose}: bar to the MAE, line on to the RMSE, which is written"
    return (
        f"<h2>Accuracy</h2>\n{_how(report.obtained['accuracy'])}\n"
        f'<div class="plots"><div>{table}</div>{_figure(joint_bars(joints), caption)}</div>'
    )


def _classes(report: Report, mirror: Classes) -> str:
    accuracy = report.accuracy
    answers = {"engine": accuracy.engine, "mirror": mirror}
    found = {name: c for name, c in answers.items() if isinstance(c, Classes)}
    rows = [
        (name, f"{c.frames:,}", f"{c.accuracy:.4f}", f"{c.calibration_error:.4f}")
        for name, c in found.items()
    ]
    table = _table(("", "frames", "accuracy", "calibration error"), rows)
    shares = [
        (label, f"{share:.4f}") for label, share in next(iter(found.values())).per_class.items()
    ]
    table += _table(("label", "accuracy"), shares)
    if accuracy.reason:
        table += _how(f"engine not measured: {accuracy.reason}")
    return f"<h2>Accuracy</h2>\n{_how(report.obtained['accuracy'])}\n{table}"


def _parts(errors: PoseErrors) -> list[tuple[str, str, str]]:
    groups = {
        "axis": errors.per_axis,
        "subject": errors.per_subject,
        "movement": errors.per_movement,
    }
    return [
        (f"{group} {name}", centimetres(e.mae_cm), centimetres(e.rmse_cm))
        for group, parts in groups.items()
        for name, e in parts.items()
    ]


def _speed(report: Report) -> str:
    speed = report.speed
    if not speed.rows:
        return f"<h2>Speed</h2>\n{_how(report.obtained['speed'])}"
    latency = latency_plot([(row.batch, row.latency_us["total"]) for row in speed.rows])
    rates = rate_plot([(row.batch, row.frames_per_s) for row in speed.rows])
    head = ("stage", "batch", "p50", "p90", "p99", "max", "calls", "frames/s")
    rows = [
        (
            *(stage, str(row.batch), *map(micros, (p.p50, p.p90, p.p99, p.max))),
            *((f"{row.calls:,}", per_second(row.frames_per_s)) if stage == "total" else ("", "")),
        )
        for row in speed.rows
        for stage, p in row.latency_us.items()
    ]
    times = "; ".join(f"{stage} {how}" for stage, how in speed.obtained.items())
    caption = "us a call: dot p50, band to p90, dashes p99 and longest"
    return "\n".join(
        [
            f"<h2>Speed</h2>\n{_how(report.obtained['speed'])}",
            f'<div class="plots">{_figure(latency, caption)}{_figure(rates, "frames/s")}</div>',
            _table(head, rows),
            _how(f"Times in us. {times}."),
            *([_how(f"not all measured: {speed.reason}")] if speed.reason else []),
        ]
    )


def _energy(report: Report) -> str:
    energy = report.energy
    parts = [f"<h2>Energy of an inference</h2>\n{_how(report.obtained['energy'])}"]
    if energy.load is not None:
        rows = [
            (
                name,
                watts(group.idle_w, group.idle_standard_error_w),
                watts(group.loaded_w, group.loaded_standard_error_w),
                f"{group.samples:,}",
                energy_mj(group),
            )
            for name, group in energy.groups.items()
        ]
        parts.append(_table(("rails", "idle (W)", "loaded (W)", "samples", "energy (mJ)"), rows))
        load = energy.load
        parts.append(
            _how(
                f"{load.frames:,} frames in calls of {load.batch}, "
                f"{per_second(load.frames_per_s)} frames/s; ± is one standard uncertainty."
            )
        )
    return "\n".join(parts)


def _temperatures(report: Report) -> str:
    start, end = report.temperatures_c.start, report.temperatures_c.end
    names = sorted(start.keys() | end.keys())
    if not names:
        return "<h2>Temperatures</h2>\n" + _how(report.obtained["temperatures_c"])
    rows = [(name, celsius(start.get(name)), celsius(end.get(name))) for name in names]
    return "<h2>Temperatures (°C)</h2>\n" + _table(("sensor", "start", "end"), rows)


def _ran(report: Report) -> str:
    lines = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts(report)
    )
    return f"<h2>What ran</h2>\n<dl>{lines}</dl>"


def _how(text: str) -> str:
    return f'<p class="how">{escape(text[:1].upper() + text[1:])}</p>'


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where the page is narrow; its first column is text."""

    def line(tag: str, cells: Sequence[str]) -> str:
        first, *others = cells
        rest = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in others)
        return f'<tr><{tag} class="t">{escape(first)}</{tag}>{rest}</tr>'

    body = "".join(line("td", row) for row in rows)
    return (
        f'<div class="scroll"><table><thead>{line("th", head)}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
