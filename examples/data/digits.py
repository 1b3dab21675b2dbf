"""Writes scikit-learn's handwritten digits in a small binary format.

    python examples/data/digits.py digits.bin

1,797 grey images of 8x8 pixels with values 0 to 16, in ten classes, shuffled
with a fixed seed; the first four fifths are for training. They ship with
scikit-learn; nothing is downloaded. The format, little endian:

    offset  bytes       what
    0       8           "INVDIG01"
    8       4           number of training images N, unsigned
    12      4           number of test images M, unsigned
    16      4           height H, unsigned
    20      4           width W, unsigned
    24      (N+M)*H*W   pixels, one byte each, 0 to 16, image by image,
                        training images first
    ...     N+M         labels, one byte each, 0 to 9
"""

import argparse
import pathlib
import struct

import numpy
from sklearn.datasets import load_digits


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("output", type=pathlib.Path)
    args = p.parse_args()

    digits = load_digits()
    order = numpy.random.RandomState(0).permutation(len(digits.target))
    pixels = digits.images[order].astype(numpy.uint8)
    labels = digits.target[order].astype(numpy.uint8)
    train = len(order) * 4 // 5

    args.output.parent.mkdir(parents=True, exist_ok=True)
    with open(args.output, "wb") as f:
        f.write(b"INVDIG01")
        f.write(struct.pack("<IIII", train, len(order) - train,
                            *pixels.shape[1:]))
        f.write(pixels.tobytes())
        f.write(labels.tobytes())
    print(f"{args.output}: {train} training and {len(order) - train} test images")


if __name__ == "__main__":
    main()
