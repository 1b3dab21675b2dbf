"""A momentum residual network (Sander et al., 2021) for 8x8 digits.

    v' = gamma * v + (1 - gamma) * f(x)    x' = x + v'

(equation 3). The velocity starts as zero, so that the first block has one state
and the others have two. Undoing a block divides v by gamma. With --shared all
blocks are one, in a loop: scripted, a loop that stays one.
"""

import torch
from torch import nn

import common


class ConvBranch(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.SiLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(self.norm(x))))


class MomentumNet(nn.Module):
    def __init__(self, depth, channels, gamma, classes=10):
        super().__init__()
        self.gamma = gamma
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            [ConvBranch(channels) for _ in range(depth)])
        common.start_small([f.conv2 for f in self.blocks], depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.stem(images)
        v = torch.zeros_like(x)
        for f in self.blocks:
            v = self.gamma * v + (1 - self.gamma) * f(x)
            x = x + v
        return self.head(self.act(x).mean(dim=[2, 3]))


class SharedMomentumNet(nn.Module):
    def __init__(self, depth, channels, gamma, classes=10):
        super().__init__()
        self.depth = depth
        self.gamma = gamma
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.block = ConvBranch(channels)
        common.start_small([self.block.conv2], depth)
        self.act = nn.SiLU()
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        x = self.stem(images)
        v = torch.zeros_like(x)
        for _ in range(self.depth):
            v = self.gamma * v + (1 - self.gamma) * self.block(x)
            x = x + v
        return self.head(self.act(x).mean(dim=[2, 3]))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=16, width=16)
    p.add_argument("--gamma", type=float, default=0.9)
    p.add_argument("--shared", action="store_true",
                   help="one block, used `depth` times")
    args = p.parse_args()
    net = SharedMomentumNet if args.shared else MomentumNet
    common.save("momentum", lambda a: net(a.depth, a.width, a.gamma), args)
