"""RealNVP's masked couplings (Dinh et al., 2017, section 3.4) for digits.

    y = b * x + (1 - b) * (x * exp(s(b * x)) + t(b * x))

b is a checkerboard of pixels in the first half of the chain and, after a
squeeze of 2x2 pixels into channels, one half of the channels in the second.
Masks alternate. With --split index the same places are taken by constant index
tensors instead: s and t then see the kept half alone.
"""

import torch
from torch import nn

import common


class ScaleAndShift(nn.Module):
    def __init__(self, channels, hidden, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(hidden, 2 * outputs, 3, padding=1)

    def forward(self, x):
        s, t = torch.chunk(self.conv2(self.act(self.conv1(x))), 2, dim=1)
        return torch.tanh(s), t


def checkerboard(parity):
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    return (x + y) % 2 == parity


def half_of_channels(channels, parity):
    return (torch.arange(channels) < channels // 2) == (parity == 0)


class Masked(nn.Module):
    """The coupling as the paper writes it."""

    def __init__(self, channels, hidden, mask):
        super().__init__()
        self.register_buffer("mask", mask.to(torch.get_default_dtype()))
        self.net = ScaleAndShift(channels, hidden, channels)

    def forward(self, x):
        kept = self.mask * x
        s, t = self.net(kept)
        changed = (1 - self.mask) * (x * torch.exp(s) + t)
        log_det = ((1 - self.mask) * s).sum(dim=[1, 2, 3])
        return kept + changed, log_det


class Indexed(nn.Module):
    """The same, with the places of each half taken by index.

    `mask` is flat."""

    def __init__(self, channels, hidden, mask):
        super().__init__()
        on, off = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
        self.register_buffer("on", on)
        self.register_buffer("off", off)
        self.register_buffer("back", torch.argsort(torch.cat([on, off])))
        self.net = ScaleAndShift(channels, hidden, channels)


class IndexedPixels(Indexed):
    def forward(self, x):
        flat = x.flatten(2)
        # A checkerboard has four of its pixels in each of the eight rows.
        kept = flat.index_select(2, self.on)
        other = flat.index_select(2, self.off).unflatten(2, [8, 4])
        s, t = self.net(kept.unflatten(2, [8, 4]))
        other = other * torch.exp(s) + t
        y = torch.cat([kept, other.flatten(2)], dim=2)
        y = y.index_select(2, self.back).view(x.shape)
        return y, s.sum(dim=[1, 2, 3])


class IndexedChannels(Indexed):
    def forward(self, x):
        kept, other = x[:, self.on], x[:, self.off]
        s, t = self.net(kept)
        other = other * torch.exp(s) + t
        y = torch.cat([kept, other], dim=1)[:, self.back]
        return y, s.sum(dim=[1, 2, 3])


class RealNVP(nn.Module):
    def __init__(self, depth, channels, split, classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.checkerboard, self.channelwise = nn.ModuleList(), nn.ModuleList()
        for i in range(depth // 2):
            mask = checkerboard(i % 2)
            self.checkerboard.append(
                Masked(channels, channels, mask) if split == "mask"
                else IndexedPixels(channels, channels, mask.flatten()))
        for i in range(depth - depth // 2):
            mask = half_of_channels(4 * channels, i % 2)
            self.channelwise.append(
                Masked(4 * channels, channels, mask.view(-1, 1, 1))
                if split == "mask"
                else IndexedChannels(2 * channels, channels, mask))
        common.start_small([b.net.conv2 for b in
                            [*self.checkerboard, *self.channelwise]], depth)
        self.squeeze = nn.PixelUnshuffle(2)
        self.act = nn.SiLU()
        self.head = nn.Linear(4 * channels, classes)

    def forward(self, images):
        x = self.stem(images)
        log_det = torch.zeros_like(images[:, 0, 0, 0])
        for block in self.checkerboard:
            x, change = block(x)
            log_det = log_det + change
        x = self.squeeze(x)
        for block in self.channelwise:
            x, change = block(x)
            log_det = log_det + change
        scores = self.head(self.act(x).mean(dim=[2, 3]))
        return scores + 0.001 * log_det.unsqueeze(1)


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=8)
    p.add_argument("--split", choices=["mask", "index"], default="mask")
    common.save("realnvp_masked", lambda a: RealNVP(a.depth, a.width, a.split),
                p.parse_args())
