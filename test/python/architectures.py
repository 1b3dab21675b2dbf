"""The architectures of examples/models, what is to be found in each, and how to
make and rewrite them. test_architectures.py tests the table, and
scripts/architectures writes docs/architectures.md from it."""

import dataclasses
import pathlib
import runpy
import sys
import typing

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples/models"
FORMS = ("scripted", "traced")


@dataclasses.dataclass(frozen=True)
class Architecture:
    name: str
    paper: str
    # Steps that there are in exact arithmetic, of a model of this depth saved
    # in this form. Splits, joins and layout are not counted: they are steps of
    # their own in some places and parts of others elsewhere.
    there: typing.Callable[[int, str], int]
    script: str = ""  # default: the name
    options: tuple = ()
    forms: tuple = FORMS
    # A step is counted if one of these rules made it.
    rules: tuple = ("sum",)
    # Depth and width in the tests, as small as the architecture allows.
    test: tuple = (2, 8)
    # Steps found there, for the forms in which fewer are found than there are.
    found: dict = dataclasses.field(default_factory=dict)
    # Largest relative difference of a gradient to plain autograd's.
    float32: float = 5e-6
    float64: float = 1e-12
    # Depths and width at which docs/architectures.md compares peak bytes, of
    # the model in this form.
    depths: tuple = (4, 8, 16)
    width: int = 16
    form: str = "traced"
    # Why peak bytes grow with depth after rewriting, whatever is found; empty:
    # they must not, unless something is missed.
    grows: str = ""
    # What inv-opt misses in some form: a step, or bytes.
    missed: str = ""
    # More than one output: inv-train does not train those.
    outputs: int = 1

    def found_in(self, form):
        """How many steps are found in the test's model."""
        return self.found.get(form, self.there(self.test[0], form))

    def save(self, folder, stem, depth, width, dtype="float32"):
        """Runs the script in this process: importing torch takes longer."""
        argv, path = sys.argv, list(sys.path)
        default = torch.get_default_dtype()
        sys.argv = [self.script, "--out", str(folder), "--name", stem,
                    "--depth", str(depth), "--width", str(width),
                    "--dtype", dtype, *self.options]
        sys.path.insert(0, str(MODELS))
        try:
            runpy.run_path(str(MODELS / f"{self.script or self.name}.py"),
                           run_name="__main__")
        finally:
            sys.argv, sys.path = argv, path
            torch.set_default_dtype(default)

    def count(self, remarks):
        """Of the steps that the remarks speak of, those to be counted: not
        those at the ends, which some widths allow and others do not."""
        made_by = [remark["message"].partition(" rule ")[2].partition(":")[0]
                   for remark in remarks if remark["kind"] == "passed"
                   and remark["module"] not in ("stem", "head")]
        return sum(not set(self.rules).isdisjoint(rules.split("+"))
                   for rules in made_by)


AFFINE = ("errors grow by the scales: the runtime keeps a state now and then "
          "(`--max-growth`)")
SHRINKING = ("factors below 1 enlarge errors: the runtime keeps a state now and "
             "then (`--max-growth`)")
WIDENING = "the stages differ in width"

ARCHITECTURES = [
    Architecture(
        "revnet", "RevNet, basic blocks (Gomez et al., 2017)",
        lambda depth, form: 2 * depth, width=32),
    Architecture(
        "revnet_bottleneck", "RevNet, bottleneck blocks (Gomez et al., 2017)",
        lambda depth, form: 2 * depth, test=(2, 16), width=32),
    Architecture(
        "irevnet", "i-RevNet, space-to-depth by view and permute, injective "
        "padding (Jacobsen et al., 2018)",
        lambda depth, form: depth, test=(4, 8), width=8, grows=WIDENING),
    Architecture(
        "irevnet, pixel_unshuffle", "i-RevNet, the same with pixel_unshuffle",
        lambda depth, form: depth, script="irevnet",
        options=("--psi", "unshuffle"), test=(4, 8), width=8, grows=WIDENING),
    Architecture(
        "irevnet, ReLU", "i-RevNet with the paper's ReLU",
        lambda depth, form: depth, script="irevnet",
        options=("--activation", "relu"), test=(4, 8), width=8, grows=WIDENING),
    Architecture(
        "irevnet, two outputs", "i-RevNet that returns its last state, too",
        lambda depth, form: depth, script="irevnet", options=("--features",),
        test=(4, 8), width=8, outputs=2),
    Architecture(
        "nice", "NICE, halves put together by stack (Dinh et al., 2014)",
        lambda depth, form: depth + 1, rules=("sum", "product"), width=64),
    Architecture(
        "nice, written", "NICE, halves written into a new tensor",
        lambda depth, form: depth + 1, script="nice",
        options=("--join", "write"), rules=("sum", "product"), width=64),
    Architecture(
        "realnvp", "RealNVP, halves of the channels as two streams (Dinh et "
        "al., 2017)",
        lambda depth, form: depth, rules=("product",), width=32, grows=AFFINE),
    Architecture(
        "realnvp_masked", "RealNVP, checkerboard and channel masks `b * x`",
        lambda depth, form: depth, rules=("product",), test=(4, 4), width=8),
    Architecture(
        "realnvp_masked, index", "RealNVP, the same places taken by index",
        lambda depth, form: depth, script="realnvp_masked",
        options=("--split", "index"), rules=("product",), test=(4, 4), width=8),
    Architecture(
        "glow", "Glow at one scale, plain 1x1 convolutions (Kingma and "
        "Dhariwal, 2018)",
        lambda depth, form: 3 * depth, rules=("product", "convolution"),
        width=32),
    Architecture(
        "glow_multiscale", "Glow, two levels, 1x1 convolutions by LU",
        lambda depth, form: 6 * depth, rules=("product", "convolution"),
        depths=(2, 4, 8), width=32),
    Architecture(
        "glow_multiscale, plain", "Glow, two levels, plain 1x1 convolutions",
        lambda depth, form: 6 * depth, script="glow_multiscale",
        options=("--weight", "plain"), rules=("product", "convolution"),
        depths=(2, 4, 8), width=32),
    Architecture(
        "gin", "GIN, soft clamping by atan, mean of s subtracted (Sorrenson et "
        "al., 2020)",
        lambda depth, form: 2 * depth, rules=("product",), width=48),
    Architecture(
        "gin, atan", "Affine couplings clamped by exp(atan(s)) (Ardizzone et "
        "al., 2019)",
        lambda depth, form: 2 * depth, script="gin",
        options=("--clamp", "atan"), rules=("product",), width=48),
    Architecture(
        "gin, tanh", "Affine couplings clamped by exp(tanh(s))",
        lambda depth, form: 2 * depth, script="gin",
        options=("--clamp", "tanh"), rules=("product",), width=48),
    Architecture(
        "gin, sigmoid", "Affine couplings clamped by sigmoid(s + 2)",
        lambda depth, form: 2 * depth, script="gin",
        options=("--clamp", "sigmoid"), rules=("product",), width=48),
    Architecture(
        "revvit", "Reversible vision transformer, two streams (Mangalam et "
        "al., 2022)",
        lambda depth, form: 2 * depth, test=(2, 16), width=32),
    Architecture(
        "reformer", "Reformer, one stream split on its last dimension (Kitaev "
        "et al., 2020)",
        lambda depth, form: 2 * depth, test=(2, 16), width=64),
    Architecture(
        "revunet", "Reversible U-Net (Brügger et al., 2019)",
        lambda depth, form: 10 * depth, test=(1, 8), depths=(2, 4, 8),
        width=16),
    Architecture(
        "revgnn", "RevGNN, four groups (Li et al., 2021)",
        lambda depth, form: 4 * depth, test=(2, 16), width=32),
    Architecture(
        "halfres_swap", "Half-residual blocks that swap their streams",
        lambda depth, form: depth, test=(3, 8), width=32),
    # The velocities but the first, and the sums x + v' between them: the last
    # x and v are held.
    Architecture(
        "momentum", "Momentum residual network (Sander et al., 2021)",
        lambda depth, form: 2 * depth - 3, test=(4, 8)),
    Architecture(
        "momentum, loop", "The same with shared weights, in a loop",
        lambda depth, form: 2 if form == "scripted" else 2 * depth - 3,
        script="momentum", options=("--shared",), test=(4, 8),
        form="scripted"),
    # The first block, which has one state, is run again.
    Architecture(
        "midpoint", "Midpoint residual network (Chang et al., 2018)",
        lambda depth, form: depth, rules=("sum", "recompute"), test=(4, 12),
        width=64),
    Architecture(
        "leapfrog", "Hamiltonian residual network, leapfrog (Chang et al., "
        "2018)",
        lambda depth, form: 2 * depth, test=(2, 6)),
    # Scripted, the loop stays one, and its body has the two steps.
    Architecture(
        "leapfrog, loop", "The same with shared weights, in a loop",
        lambda depth, form: 2 if form == "scripted" else 2 * depth,
        script="leapfrog", options=("--shared",), test=(3, 6),
        form="scripted"),
    Architecture(
        "scaled_couplings", "Couplings with factors on both streams, switched "
        "(MacKay et al., 2018)",
        lambda depth, form: 2 * depth, width=32, grows=SHRINKING),
    # The streams shrink, and layer norms enlarge their errors: a state is kept
    # every few steps, or float32 gradients would be off by 2e-2.
    Architecture(
        "scaled_couplings, 0.5", "The same with factors of 0.5",
        lambda depth, form: 2 * depth, script="scaled_couplings",
        options=("--lambda", "0.5", "--beta", "0.5"), test=(16, 32), width=32,
        # float64 allows a hundred times the growth.
        float64=1e-9, grows=SHRINKING),
    Architecture(
        "interleaved", "Couplings on every other feature",
        lambda depth, form: 2 * depth, test=(2, 16), width=64),
    # The first linear layer reads the images, which the caller keeps.
    Architecture(
        "leaky_chain", "Linear layers and leaky ReLUs",
        lambda depth, form: 2 * depth - 1, rules=("linear", "activation"),
        test=(3, 64), width=96,
        grows="errors grow by 1 / slope: a value is kept now and then "
        "(`--max-condition`)"),
    Architecture(
        "invlinear", "The same layers with inverses beside them",
        lambda depth, form: 2 * depth, rules=("annotated",), test=(3, 64),
        width=96),
    Architecture(
        "patchconv", "Patchwise convolutions and couplings",
        lambda depth, form: 4 * depth + 2, rules=("sum", "convolution"),
        test=(1, 2), depths=(2, 4, 8), width=4),
    # Lifting along two dimensions, two sums each.
    Architecture(
        "downsample", "Pixel unshuffle and Haar wavelets, by lifting",
        lambda depth, form: 6 * depth + 4, test=(1, 2), depths=(2, 4, 8),
        width=4),
    Architecture(
        "downsample, conv", "Pixel unshuffle and Haar wavelets, as a "
        "convolution (Ardizzone et al., 2019)",
        lambda depth, form: 6 * depth + 1, script="downsample",
        options=("--haar", "conv"), rules=("sum", "convolution"), test=(1, 2),
        depths=(2, 4, 8), width=4),
    Architecture(
        "residual_flow", "Residual flow, annotated as contractive (Behrmann et "
        "al., 2019)",
        lambda depth, form: depth, rules=("annotated",), test=(2, 12),
        width=48),
    Architecture(
        "revmlp", "Couplings of MLPs, equal blocks",
        lambda depth, form: 2 * depth, test=(2, 16), width=64),
    Architecture(
        "revmlp, loop", "The same with shared weights, in a loop",
        lambda depth, form: 2 if form == "scripted" else 2 * depth,
        script="revmlp", options=("--shared",), test=(3, 16), width=64,
        form="scripted"),
    Architecture(
        "resnet", "Plain ResNet: nothing to undo",
        lambda depth, form: 0, test=(2, 12), width=24,
        grows="nothing is rewritten"),
]
