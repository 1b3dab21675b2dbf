"""An i-RevNet (Jacobsen et al., 2018) for 8x8 digits.

Nothing is thrown away before the average pooling: images become channels by
space-to-depth, and zero channels are added behind them (injective padding).
Each block hands on

    y1 = S(x2)    y2 = S(x1) + F(x2)

where S is the identity, or space-to-depth where a stage ends; there F has
stride 2. With --features the last state is a second output, as in the paper,
where images are rebuilt from it.
"""

import torch
import torch.nn.functional as F
from torch import nn

import common

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}


class SpaceToDepth(nn.Module):
    """Each 2x2 block of pixels becomes four channels, by view and permute."""

    def forward(self, x):
        batch, channels, height, width = x.shape
        x = x.view(batch, channels, height // 2, 2, width // 2, 2)
        x = x.permute(0, 3, 5, 1, 2, 4).contiguous()
        return x.view(batch, 4 * channels, height // 2, width // 2)


def space_to_depth(how):
    return nn.PixelUnshuffle(2) if how == "unshuffle" else SpaceToDepth()


class Bottleneck(nn.Module):
    def __init__(self, inputs, outputs, stride, activation):
        super().__init__()
        hidden = outputs // 4
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, hidden, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 3, padding=1, bias=False)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x):
        x = self.conv1(self.act(self.norm1(x)))
        x = self.conv2(self.act(self.norm2(x)))
        return self.conv3(self.act(self.norm3(x)))


class Block(nn.Module):
    def __init__(self, inputs, outputs, how, activation):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.shape = (nn.Identity() if stride == 1 else space_to_depth(how))
        self.f = Bottleneck(inputs, outputs, stride, activation)

    def forward(self, x1, x2):
        f = self.f(x2)
        return self.shape(x2), self.shape(x1) + f


class IRevNet(nn.Module):
    def __init__(self, depth, channels, how, activation, classes=10):
        super().__init__()
        self.squeeze = space_to_depth(how)
        self.padding = 2 * channels - 4
        blocks = []
        for i in range(depth):
            before = channels if i < depth // 2 else 4 * channels
            after = channels if i + 1 < depth // 2 else 4 * channels
            blocks.append(Block(before, after, how, activation))
        self.blocks = nn.ModuleList(blocks)
        common.start_small([block.f.conv3 for block in blocks], depth)
        self.norm = nn.BatchNorm2d(8 * channels)
        self.act = ACTIVATIONS[activation]()
        self.head = nn.Linear(8 * channels, classes)

    def features(self, images):
        x = self.squeeze(images)
        x = F.pad(x, (0, 0, 0, 0, 0, self.padding))
        x1, x2 = torch.chunk(x, 2, dim=1)
        for block in self.blocks:
            x1, x2 = block(x1, x2)
        return torch.cat([x1, x2], dim=1)

    def classify(self, x):
        return self.head(self.act(self.norm(x)).mean(dim=[2, 3]))

    def forward(self, images):
        return self.classify(self.features(images))


class IRevNetWithFeatures(IRevNet):
    def forward(self, images):
        x = self.features(images)
        return self.classify(x), x


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=8)
    p.add_argument("--psi", choices=["view", "unshuffle"], default="view",
                   help="how space-to-depth is written")
    p.add_argument("--activation", choices=list(ACTIVATIONS), default="silu")
    p.add_argument("--features", action="store_true",
                   help="return the last state, too")
    common.save("irevnet",
                lambda a: (IRevNetWithFeatures if a.features else IRevNet)(
                    a.depth, a.width, a.psi, a.activation), p.parse_args())
