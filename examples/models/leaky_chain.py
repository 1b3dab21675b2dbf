"""A chain of linear layers and leaky ReLUs, for 8x8 digits.

    y = leaky_relu(x W^T + b, slope)

Plain nn.Linear and nn.LeakyReLU, without an inverse beside them (that is
invlinear.py): the weights are orthogonal at first, and square but for the
first, which has more outputs than inputs. A linear layer is undone by a solve,
the leaky ReLU by one of slope 1 / slope.
"""

from torch import nn

import common


class LeakyChain(nn.Module):
    def __init__(self, depth, width, slope, classes=10):
        super().__init__()
        layers = []
        for i in range(depth):
            layers.append(nn.Linear(width if i else 64, width))
            nn.init.orthogonal_(layers[-1].weight)
            layers.append(nn.LeakyReLU(slope))
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.blocks(images.flatten(1)))


if __name__ == "__main__":
    p = common.parser(__doc__.splitlines()[0], depth=12, width=96)
    p.add_argument("--slope", type=float, default=0.7,
                   help="of the leaky ReLU, for negative inputs")
    common.save("leaky_chain", lambda a: LeakyChain(a.depth, a.width, a.slope),
                p.parse_args())
