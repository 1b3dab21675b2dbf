"""The demo's table and its page."""

import html
import json
import re

import demo_charts
import demo_graph

MIB = 1 << 20


def read_remarks(path):
    """The remarks that inv-opt wrote with --remarks-output."""
    return json.loads(path.read_text())["remarks"]


def size(count, beside=None):
    """Bytes in a unit that suits them, or suits the figure they stand beside."""
    divisor, unit = demo_charts.unit_of(beside or count)
    return f"{count / divisor:.2f} {unit}"


def evaluations(row):
    """How often a training step runs each conditioner, or None."""
    side = row["rewritten"]
    forward = side["conditioner_evaluations_forward"]
    return side["conditioner_evaluations"] / forward if forward else None


# Of the table in the terminal, in two lines: all of it fits 100 columns.
HEADINGS = [("", "model"), ("", "steps"), ("peak", "original"),
            ("peak", "rewritten"), ("", "less"), ("step", "time"),
            ("grad.", "f32"), ("own", "f32"), ("grad.", "f64"), ("", "runs"),
            ("acc.", "orig."), ("acc.", "rewr.")]


def cells(model, row):
    """The row of the table, as text."""
    often = evaluations(row)
    error = row["gradient_error"]
    own = error.get("original_to_float64")
    return [model.name, str(row["steps"]),
            size(row["original"]["peak_bytes"]),
            size(row["rewritten"]["peak_bytes"], row["original"]["peak_bytes"]),
            f"{row['peak_ratio']:.1f}x", f"{row['time_ratio']:.2f}x",
            f"{error['first']:.1e}",
            f"{own:.1e}" if own is not None else "-",
            f"{error['float64']:.1e}",
            "-" if often is None else f"{often:.3g}",
            f"{row['original']['accuracy']:.1%}",
            f"{row['rewritten']['accuracy']:.1%}"]


def table(rows):
    """For the terminal."""
    lines = [*zip(*HEADINGS)] + [cells(m, r) for m, r in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    text = []
    for n, line in enumerate(lines):
        text.append("  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))).rstrip())
        if n == 1:
            text.append("  ".join("-" * width for width in widths))
    text += ["",
             "peak: most bytes of tensors that a training step adds. less: how "
             "many times. time: of forward",
             "and backward, rewritten over original. grad.: worst difference "
             "of a gradient to the original's,",
             "relative to the tensor's largest element; own: of the original's "
             "to a float64 run. runs: of",
             "each network F or G per training step. acc.: accuracy on images "
             "held back."]
    return "\n".join(text)


STYLE = """
:root { --paper: #ffffff; --ink: #1c2024; --soft: #60666e; --rule: #e3e6ea;
  --panel: #f6f7f9; --original: #c2570c; --rewritten: #0b6e99;
  --mark: #e6f3f9; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e8eaed; --soft: #9aa1ab; --rule: #2c3138;
    --panel: #1c2026; --original: #f0985a; --rewritten: #5cbde6;
    --mark: #17303c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; text-wrap: balance; }
h2 { font-size: 21px; margin: 52px 0 8px; }
h3 { font-size: 16px; margin: 0 0 2px; }
p { max-width: 70ch; margin: 0 0 14px; }
.soft, figcaption { color: var(--soft); font-size: 14px; }
.lead { font-size: 18px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 9px 8px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 500; color: var(--soft); font-size: 13px;
  vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td .soft { display: block; white-space: normal; min-width: 200px;
  max-width: 250px; line-height: 1.35; font-size: 13px; }
td strong { color: var(--rewritten); }
figure { margin: 0; padding: 16px; background: var(--panel);
  border-radius: 8px; }
.pair { display: grid; gap: 16px; margin: 12px 0 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.legend { display: flex; gap: 18px; font-size: 13.5px; margin: 4px 0 6px;
  color: var(--soft); }
.legend span::before { content: ""; display: inline-block; width: 18px;
  height: 3px; margin-right: 7px; vertical-align: middle;
  background: var(--color); }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .note { font-weight: 600; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); fill: none; }
svg .line { fill: none; stroke: var(--color); stroke-width: 1.8;
  stroke-linejoin: round; }
svg .dashed { stroke-dasharray: 6 4; }
svg .area { fill: var(--color); fill-opacity: .13; }
svg .peak { stroke: var(--color); stroke-dasharray: 2 4; }
svg .dot { fill: var(--color); }
svg .note.original, svg .note.rewritten { fill: var(--color); }
.original { --color: var(--original); } .rewritten { --color: var(--rewritten); }
h4 { font: 600 12px ui-monospace, Menlo, Consolas, monospace;
  margin: 14px 0 2px; color: var(--soft); }
pre { margin: 0; font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
pre div { padding-left: 4em; text-indent: -4em; }
pre .step { display: block; background: var(--mark); }
pre.full { overflow: auto; max-height: 620px; white-space: pre; }
.graphs { align-items: start; grid-template-columns: minmax(0, 1fr); }
summary { cursor: pointer; margin: 14px 0 6px; color: var(--soft);
  font-size: 14px; }
pre .comment { color: var(--soft); }
ul { padding-left: 20px; } li { margin: 4px 0; max-width: 90ch; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; }
"""

LEGEND = ('<div class="legend"><span class="original">original</span>'
          '<span class="rewritten">rewritten by inv-opt</span></div>')


def figure(title, caption, svg):
    return (f"<figure><h3>{html.escape(title)}</h3>"
            f"<figcaption>{html.escape(caption)}</figcaption>"
            f"{LEGEND}{svg}</figure>")


def best(rows):
    """The model that saves the most, with its row; None where none does."""
    saved = [(m, r) for m, r in rows if r["steps"]]
    return max(saved, key=lambda pair: pair[1]["peak_ratio"], default=None)


def picture(rows):
    """The memory of one step of that model, as an SVG file; or None."""
    if not best(rows):
        return None
    model, row = best(rows)
    return demo_charts.alone(demo_charts.memory_chart(
        model.title, row["original"]["memory"], row["rewritten"]["memory"]))


def headline(rows):
    if not best(rows):
        return "Nothing was rewritten"
    model, row = best(rows)
    return (f"{model.title}: {size(row['original']['peak_bytes'])} of "
            f"activations become "
            f"{size(row['rewritten']['peak_bytes'], row['original']['peak_bytes'])}")


def html_table(rows):
    heads = ["model", "steps", "peak,<br>original", "peak,<br>rewritten",
             "times<br>less", "step<br>time", "gradient<br>error f32",
             "original's<br>rounding f32", "gradient<br>error f64", "evaluations<br>per step",
             "accuracy,<br>original", "accuracy,<br>rewritten"]
    out = ["<div class=scroll><table><thead><tr>"]
    out += [f"<th>{head}</th>" for head in heads]
    out.append("</tr></thead><tbody>")
    for model, row in rows:
        values = cells(model, row)
        values[4] = f"<strong>{row['peak_ratio']:.1f}</strong>"
        values[5] = "× " + values[5].removesuffix("x")
        name = (f"{html.escape(model.title)}<span class=soft>"
                f"{html.escape(model.about)}</span>")
        out.append("<tr>" + "".join(f"<td>{v}</td>" for v in [name] + values[1:])
                   + "</tr>")
    out.append("</tbody></table></div>")
    return "".join(out)


def model_figures(model, row):
    caption = (f"{row['steps']} steps; tensors that one training step "
               "allocates, as time goes by"
               if row["steps"] else "no steps: the same model twice")
    memory = figure(
        model.title, caption,
        demo_charts.memory_chart(model.title, row["original"]["memory"],
                                 row["rewritten"]["memory"]))
    loss = figure(
        "Training loss",
        "first losses "
        + ("bit-equal" if row["first_loss_equal"] else "DIFFER")
        + ", largest difference over the whole training "
        + f"{row['largest_loss_difference']:.1e}",
        demo_charts.loss_chart(model.title, row["original"]["epoch_losses"],
                               row["rewritten"]["epoch_losses"]))
    return f"<div class=pair>{memory}{loss}</div>"


def chain_section(points):
    peaks = sorted({p["rewritten"] for p in points})
    if len(peaks) == 1:
        claim = (f"The rewritten chain peaks at {peaks[0]:,} bytes at each of "
                 "these depths, the same number to the byte: backward rebuilds "
                 "each block's input from its output, so nothing is kept per "
                 "block.")
    else:
        claim = ("The rewritten chain's peak differs between depths: "
                 + ", ".join(f"{p:,}" for p in peaks) + " bytes.")
    rows = "".join(
        f"<tr><td>{p['depth']} blocks</td><td>{p['original']:,}</td>"
        f"<td>{p['rewritten']:,}</td>"
        f"<td>{p['original'] / p['rewritten']:.1f}</td>"
        f"<td>{p['gradient_error']:.1e}</td></tr>" for p in points)
    return (f"<h2>Depth costs nothing</h2><p>{claim}</p><div class=pair>"
            + figure("Equal blocks of the deep MLP", "batch of 64, float32",
                     demo_charts.depth_chart(points))
            + "<div class=scroll><table><thead><tr><th></th>"
              "<th>peak bytes,<br>original</th><th>peak bytes,<br>rewritten"
              "</th><th>times<br>less</th><th>gradient<br>error</th></tr>"
              f"</thead><tbody>{rows}</tbody></table></div></div>")


def highlight(ir):
    """Printed IR as HTML; the lines that are ours stand out."""
    out = []
    for line in ir.rstrip().split("\n"):
        # Sources: the file's name is enough.
        line = re.sub(r"# (\S*/)([^/\s]+\.py:\d+)", r"# \2", line)
        code, mark, comment = line.partition(" # ")
        text = html.escape(code)
        if mark:
            text += f'<span class="comment"> # {html.escape(comment)}</span>'
        if re.search(r"\binv::", code):
            text = f'<span class="step">{text}</span>'
        out.append(f"<div>{text or '&nbsp;'}</div>")
    return "".join(out)


def graph_figure(title, caption, ir):
    """A printed module: what computes, in short; the print itself folded."""
    graphs = demo_graph.sections(ir)
    # The model's own method first, then what it calls.
    order = sorted(graphs, key=lambda name: name != "forward")
    blocks = "".join(
        f"<h4>{html.escape(name.removeprefix('__torch__.inv.'))}</h4>"
        f"<pre>{highlight(demo_graph.readable(graphs[name]))}</pre>"
        for name in order)
    return (f"<figure><h3>{title}</h3><figcaption>{caption}</figcaption>{blocks}"
            f"<details><summary>As printed, {len(ir.splitlines())} lines with "
            f"weights and types</summary><pre class=full>{highlight(ir)}</pre>"
            "</details></figure>")


def graph_section(before, after):
    return f"""
<h2>One block, before and after</h2>
<p>The deep MLP with a single block, as <code>inv-opt -S</code> prints it;
constants, lists and weights are written where they are used. Each half of the
block became one step. The networks F and G moved into the steps' classes; their
weights stay where they were and are passed in.</p>
<div class="pair graphs">
{graph_figure("Before", "after the pass canonicalize alone", before)}
{graph_figure("After", "after all passes", after)}
</div>"""


def missed_groups(remarks):
    """Refusals of one reason in one place of the source, with their blocks."""
    groups = {}
    for remark in remarks:
        if remark.get("kind") == "missed":
            key = (remark["reason"], remark["source"], remark["suggestion"])
            groups.setdefault(key, []).append(remark)
    return list(groups.values())


def refusal(group):
    """One line of the list, for equal refusals."""
    first = group[0]
    # The value's name is another one in each block.
    message = first["message"]
    if len(group) > 1:
        message = re.sub(r" \(%[^()]*\)$", "", message)
    places = [g["module"] or "forward" for g in group]
    where = places[0] if len(places) == 1 else f"{places[0]} to {places[-1]}"
    times = f"{len(group)} times, " if len(group) > 1 else ""
    text = (f"{html.escape(message)} <span class=soft>({times}"
            f"<code>{html.escape(where)}</code>, "
            f"<code>{html.escape(first['source'])}</code>)</span>")
    if first.get("suggestion"):
        text += f"<br><span class=soft>{html.escape(first['suggestion'])}</span>"
    return f"<li>{text}</li>"


def refusal_section(rows):
    """Why the models without steps have none."""
    out = []
    for model, row in rows:
        groups = [] if row["steps"] else missed_groups(row["remarks"])
        if groups:
            out.append(f"<h2>{html.escape(model.title)}: left as it is</h2>"
                       "<p>What inv-opt says about it:</p><ul>"
                       + "".join(map(refusal, groups)) + "</ul>")
    return "".join(out)


def verdict(rows, failures):
    """What the page says first: what held, and what did not."""
    if failures:
        return ("<p class=lead><strong>Something is wrong:</strong></p><ul>"
                + "".join(f"<li>{html.escape(f)}</li>" for f in failures)
                + "</ul>")
    assert all(row["forward_bit_equal"] for _, row in rows)
    return ("<p class=lead>The forward results are bit-equal; the activations "
            "that the original keeps for backward, the rewritten model "
            "computes back from its outputs.</p>")


def page(rows, chain, before, after, version, failures, *, quick, threads):
    short = " With --quick: one epoch only." if quick else ""
    figures = "".join(model_figures(m, r) for m, r in rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>inv-opt: original and rewritten, side by side</title>
<style>{STYLE}</style></head><body><main>
<h1>{html.escape(headline(rows))}</h1>
<p class=lead>Each model was saved with TorchScript, rewritten by inv-opt, and
trained in LibTorch next to its original: the same weights, batches and random
numbers, in one process.</p>
{verdict(rows, failures)}
{html_table(rows)}
<h2>Memory over one training step</h2>
<p>The original's curve climbs through forward and falls in backward. The
rewritten model holds two streams and one half-block's values at a time.</p>
{figures}
{chain_section(chain)}
{graph_section(before, after)}
{refusal_section(rows)}
<h2>How it was measured</h2>
<ul>
<li>Data: scikit-learn's 1,797 handwritten digits of 8×8 pixels, a fifth of
them for the accuracy.{short}</li>
<li>Peak: bytes that tensors ask of the CPU allocator, above the level before
the step; counted exactly. Gradients and the optimizer's state exist before.</li>
<li>Step time: forward, loss and backward, without the optimizer; the median
over the whole training, both models in turn, {html.escape(threads)} threads.
Freed memory stays in the process, so that neither pays for page faults.</li>
<li>Gradient error: largest difference of an element over the largest element
of the original's gradient; the worst of all parameters, over the first three
steps, scripted and traced. Beside it, what rounding alone does to the original:
the distance of its float32 gradients to those of a float64 run. Training makes
small differences grow, in any two runs that round differently.</li>
<li>Evaluations: how often a training step runs each network F or G, counted by
the runtime. Plain training runs them once, and keeps what they computed.</li>
<li>Both run their graphs as saved (TorchScript's profiling executor is off).</li>
</ul>
<p class=soft>{html.escape(version.strip())}</p>
</main></body></html>
"""
