"""Glow with its multi-scale architecture (Kingma and Dhariwal, 2018).

Two levels of: squeeze, `depth` times (ActNorm, 1x1 convolution, affine
coupling). Between them half of the channels leave for the output. The weight of
the 1x1 convolution is made from its LU decomposition in each call,

    W = P L (U + diag(sign * exp(log_s)))

(equation 10), or is a plain matrix (--weight plain). The log-determinant is
summed along the chain, and a little of it added to the class scores.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common


class ActNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x):
        return (x + self.bias) * torch.exp(self.logs), self.logs.sum()


class PlainMix(nn.Module):
    """1x1 convolution, orthogonal at the start."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(
            torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def forward(self, x):
        y = F.conv2d(x, self.weight.unsqueeze(-1).unsqueeze(-1))
        return y, torch.linalg.slogdet(self.weight)[1]


class LuMix(nn.Module):
    """The same, its weight made from a decomposition."""

    def __init__(self, channels):
        super().__init__()
        weight = torch.linalg.qr(torch.randn(channels, channels))[0]
        p, lower, upper = torch.linalg.lu(weight)
        diagonal = upper.diagonal()
        self.register_buffer("p", p)
        self.register_buffer("sign", diagonal.sign())
        self.register_buffer("eye", torch.eye(channels))
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_s = nn.Parameter(diagonal.abs().log())

    def forward(self, x):
        lower = self.lower.tril(-1) + self.eye
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())
        weight = self.p @ lower @ upper
        y = F.conv2d(x, weight.unsqueeze(-1).unsqueeze(-1))
        return y, self.log_s.sum()


class AffineCoupling(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.conv1 = nn.Conv2d(channels // 2, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, hidden, 1)
        self.conv3 = nn.Conv2d(hidden, channels, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, x):
        x1, x2 = torch.chunk(x, 2, dim=1)
        h = self.act(self.conv2(self.act(self.conv1(x1))))
        log_s, t = torch.chunk(self.conv3(h), 2, dim=1)
        s = torch.sigmoid(log_s + 2)
        y2 = (x2 + t) * s
        return torch.cat([x1, y2], dim=1), torch.log(s).sum(dim=[1, 2, 3])


class FlowStep(nn.Module):
    def __init__(self, channels, hidden, weight):
        super().__init__()
        self.norm = ActNorm(channels)
        self.mix = LuMix(channels) if weight == "lu" else PlainMix(channels)
        self.coupling = AffineCoupling(channels, hidden)

    def forward(self, x):
        pixels = x.size(2) * x.size(3)
        x, log_norm = self.norm(x)
        x, log_mix = self.mix(x)
        x, log_coupling = self.coupling(x)
        return x, (log_norm + log_mix) * pixels + log_coupling


class Level(nn.Module):
    """Squeeze and a chain of steps."""

    def __init__(self, depth, channels, hidden, weight):
        super().__init__()
        self.squeeze = nn.PixelUnshuffle(2)
        self.steps = nn.ModuleList(
            [FlowStep(channels, hidden, weight) for _ in range(depth)])

    def forward(self, x, log_det):
        x = self.squeeze(x)
        for step in self.steps:
            x, change = step(x)
            log_det = log_det + change
        return x, log_det


class Glow(nn.Module):
    def __init__(self, depth, hidden, weight, channels=4, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 1)
        self.blocks = nn.ModuleList([
            Level(depth, 4 * channels, hidden, weight),
            Level(depth, 8 * channels, hidden, weight)])
        common.start_small([step.coupling.conv3 for level in self.blocks
                            for step in level.steps], 2 * depth)
        self.head = nn.Linear(64 * channels, classes)

    def forward(self, images):
        x = self.stem(images)
        log_det = torch.zeros_like(images[:, 0, 0, 0])
        out = []
        for i, level in enumerate(self.blocks):
            x, log_det = level(x, log_det)
            if i == 0:
                z, x = torch.chunk(x, 2, dim=1)
                out.append(z.flatten(1))
        out.append(x.flatten(1))
        scores = self.head(torch.cat(out, dim=1))
        return scores + 0.001 * log_det.unsqueeze(1)


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=8, width=32)
    p.add_argument("--weight", choices=["lu", "plain"], default="lu")
    common.save("glow_multiscale", lambda a: Glow(a.depth, a.width, a.weight),
                p.parse_args())
