#!/usr/bin/env python3
"""Writes golden.bin, what tests/test_golden.c compares the library with, from PyTorch (made with 1.13).

    python3 tests/golden/make_golden.py

The tests need only the file, not this script. The file is a row of items, all numbers little-endian:

    name    16 bytes, padded with zeros
    type    uint32: the character 'c' (a case begins; no data), 'i' (int32), 'f' (float32) or 'd' (float64)
    n c h w uint32 each; the item has n*c*h*w values
    values

A case has the operator's name; the items up to the next case are its options (int32, in the order of the
option struct's fields), inputs, results and gradients. Inputs, data and initial weights come from splitmix64
(check_bits in tests/check.h): value k of a stream is drawn from seed + (k+1)*0x9e3779b97f4a7c15, and a
uniform number in -1..1 is (bits >> 40) / 2^23 - 1, which float32 holds exactly.

A training case ("lenet", "lenet-relu") stores no data and no weights; they are made alike on both sides:
    labels  example i: value i of the stream DATA_SEED, mod 10
    images  1x28x28 bytes; pixel p of example i takes bits = value i*784+p of the stream DATA_SEED+1:
            bits >> 58 (0..63), and 255 minus that inside the class's bright patch: rows 14*(label/5) to +13,
            columns 5*(label%5)+1 to +4
    weights the parameters in the network's order, value k of the stream WEIGHT_SEED being uniform number k,
            times the tensor's scale (float32, one rounding); batch s is examples s*BATCH to s*BATCH+BATCH-1
"""

import os
import struct

import numpy as np
import torch
import torch.nn.functional as F

GAMMA = 0x9E3779B97F4A7C15
DATA_SEED, WEIGHT_SEED = 1000, 2000
BATCH, STEPS = 64, 20


def stream(seed, count):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(seed, count):
    return ((stream(seed, count) >> np.uint64(40)).astype(np.float64) / 8388608.0 - 1.0).astype(np.float32)


class Golden:
    def __init__(self, file):
        self.file = file
        self.seed = 1

    def random(self, *shape):
        self.seed += 1
        return torch.from_numpy(uniform(self.seed << 32, int(np.prod(shape))).reshape(shape))

    def item(self, name, kind, shape, data=b""):
        self.file.write(struct.pack("<16s5I", name.encode(), ord(kind), *shape) + data)

    def case(self, name):
        self.item(name, "c", (0, 0, 0, 0))

    def ints(self, name, values):
        values = np.asarray(values, dtype="<i4").reshape(-1)
        self.item(name, "i", (1, 1, 1, values.size), values.tobytes())

    def doubles(self, name, values):
        values = np.asarray(values, dtype="<f8").reshape(-1)
        self.item(name, "d", (1, 1, 1, values.size), values.tobytes())

    def tensor(self, name, value):
        value = value.detach().contiguous()
        shape = tuple(value.shape) if value.dim() > 1 else (1,) + tuple(value.shape)
        shape += (1,) * (4 - len(shape))
        self.item(name, "f", shape, value.numpy().astype("<f4").tobytes())

    def operator(self, name, options, function, **inputs):
        """A case of function(**inputs): the inputs, y, a random dy, and the gradient of every float input."""
        self.case(name)
        self.ints("options", options)
        for value in inputs.values():
            value.requires_grad_()
        y = function(**inputs)
        dy = self.random(*y.shape)
        y.backward(dy)
        for key, value in inputs.items():
            self.tensor(key, value)
            self.tensor("d" + key, value.grad)
        self.tensor("y", y)
        self.tensor("dy", dy)


MODES = ["constant", "reflect", "replicate", "circular"]


def conv2d(golden, x, out, kernel, stride=(1, 1), pad=(0, 0, 0, 0), dilation=(1, 1), groups=1, mode=0,
           bias=True):
    """pad: top, bottom, left, right."""

    def function(x, w, b=None):
        padded = F.pad(x, (pad[2], pad[3], pad[0], pad[1]), mode=MODES[mode]) if any(pad) else x
        return F.conv2d(padded, w, b, stride, 0, dilation, groups)

    inputs = {"x": golden.random(*x), "w": golden.random(out, x[1] // groups, *kernel)}
    if bias:
        inputs["b"] = golden.random(out)
    golden.operator("conv2d", [*stride, *pad, *dilation, groups, mode], function, **inputs)


def convolutions(golden):
    conv2d(golden, (1, 1, 3, 3), 1, (2, 2), bias=False)
    conv2d(golden, (3, 1, 12, 12), 6, (5, 5), pad=(2, 2, 2, 2))
    conv2d(golden, (2, 6, 9, 9), 16, (5, 5))
    conv2d(golden, (2, 5, 7, 8), 3, (1, 1))
    conv2d(golden, (2, 3, 11, 13), 4, (3, 3), stride=(2, 3), pad=(1, 1, 1, 1))
    conv2d(golden, (2, 3, 8, 9), 5, (4, 2), stride=(3, 1), pad=(2, 1, 1, 0))
    conv2d(golden, (1, 2, 13, 11), 3, (3, 2), dilation=(2, 3), pad=(0, 3, 2, 1))
    conv2d(golden, (2, 6, 8, 7), 4, (3, 3), groups=2, pad=(1, 1, 1, 1))
    conv2d(golden, (2, 6, 9, 9), 6, (3, 3), groups=6, pad=(1, 1, 1, 1))
    conv2d(golden, (2, 4, 9, 10), 8, (3, 3), groups=4, stride=(2, 2), bias=False)
    conv2d(golden, (2, 2, 6, 7), 3, (3, 5), pad=(1, 2, 3, 2), mode=1)
    conv2d(golden, (2, 2, 6, 7), 3, (3, 3), pad=(2, 1, 4, 3), stride=(2, 1), mode=2)
    conv2d(golden, (2, 2, 5, 6), 3, (3, 3), pad=(5, 2, 1, 6), mode=3)
    conv2d(golden, (1, 4, 8, 8), 6, (3, 3), pad=(3, 4, 4, 3), dilation=(2, 2), stride=(1, 2), groups=2,
           mode=1)
    conv2d(golden, (4, 1, 8, 8), 1, (8, 8))
    conv2d(golden, (2, 17, 6, 37), 19, (3, 3), pad=(1, 1, 1, 1))


def maxpool2d(golden, x, kernel, stride=(0, 0), pad=(0, 0), dilation=(1, 1), ceil=0, levels=0):
    x = golden.random(*x)
    if levels:
        x = torch.round(x * levels)  # ties
    use = [s or k for s, k in zip(stride, kernel)]
    indices = F.max_pool2d(x, kernel, use, pad, dilation, bool(ceil), True)[1]
    golden.operator("maxpool2d", [*kernel, *stride, *pad, *dilation, ceil, 0],
                    lambda x: F.max_pool2d(x, kernel, use, pad, dilation, bool(ceil)), x=x)
    golden.ints("indices", indices.numpy())


def avgpool2d(golden, x, kernel, stride=(0, 0), pad=(0, 0), ceil=0, exclude=0):
    use = [s or k for s, k in zip(stride, kernel)]
    golden.operator("avgpool2d", [*kernel, *stride, *pad, 0, 0, ceil, exclude],
                    lambda x: F.avg_pool2d(x, kernel, use, pad, bool(ceil), not exclude), x=golden.random(*x))


def pools(golden):
    maxpool2d(golden, (2, 3, 8, 8), (2, 2))
    maxpool2d(golden, (1, 1, 4, 4), (3, 3))
    maxpool2d(golden, (2, 2, 7, 9), (3, 3), (2, 2))
    maxpool2d(golden, (2, 2, 7, 9), (3, 3), (2, 2), (1, 1))
    maxpool2d(golden, (2, 2, 7, 8), (2, 3), (2, 3), (0, 1))
    maxpool2d(golden, (2, 2, 7, 8), (3, 2), (1, 1), (1, 1))
    maxpool2d(golden, (2, 2, 8, 10), (3, 3), (2, 2), ceil=1)
    maxpool2d(golden, (2, 2, 6, 7), (2, 2), (2, 3), (1, 1), ceil=1)
    maxpool2d(golden, (2, 2, 9, 10), (2, 3), (2, 1), (1, 1), (3, 2))
    maxpool2d(golden, (2, 2, 10, 9), (3, 2), (2, 2), (1, 0), (2, 3), ceil=1)
    maxpool2d(golden, (2, 2, 7, 7), (3, 3), (1, 1), (1, 1), levels=2)
    maxpool2d(golden, (2, 17, 6, 6), (2, 2), levels=1)
    avgpool2d(golden, (2, 3, 8, 8), (2, 2))
    avgpool2d(golden, (1, 1, 4, 4), (3, 3))
    for exclude in (0, 1):
        avgpool2d(golden, (2, 2, 7, 9), (3, 3), (2, 2), (1, 1), 0, exclude)
        avgpool2d(golden, (2, 2, 8, 10), (3, 3), (2, 2), (1, 1), 1, exclude)
        avgpool2d(golden, (2, 2, 7, 8), (2, 5), (3, 1), (1, 2), 0, exclude)
        avgpool2d(golden, (2, 2, 6, 7), (2, 2), (2, 3), (1, 1), 1, exclude)
        avgpool2d(golden, (1, 3, 9, 5), (4, 3), (1, 2), (2, 1), 1, exclude)
    for shape in ((2, 3, 7, 9), (1, 1, 1, 1), (3, 5, 1, 6), (2, 4, 28, 28)):
        golden.operator("globalavgpool2d", [], lambda x: F.adaptive_avg_pool2d(x, 1), x=golden.random(*shape))


def linear(golden, x, out, bias=True):
    inputs = {"x": golden.random(*x), "w": golden.random(out, int(np.prod(x[1:])))}
    if bias:
        inputs["b"] = golden.random(out)
    golden.operator("linear", [], lambda x, w, b=None: F.linear(x.flatten(1), w, b), **inputs)


def linears(golden):
    for n, features, out in ((1, 1, 1), (2, 3, 5), (7, 16, 10), (33, 20, 17), (16, 84, 10), (5, 100, 33),
                             (1, 64, 64)):
        linear(golden, (n, features), out)
    linear(golden, (3, 2, 4, 5), 7)
    linear(golden, (4, 16, 5, 5), 12)
    linear(golden, (9, 31), 6, bias=False)
    linear(golden, (2, 3, 3, 3), 2, bias=False)
    linear(golden, (65, 13), 3)


def activations(golden):
    functions = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
                 "softmax": lambda x: torch.softmax(x, 1)}
    shapes = ((1, 1, 1, 1), (3, 10, 1, 1), (2, 3, 4, 5), (1, 17, 2, 3), (5, 33, 1, 1), (2, 2, 7, 9))
    for name, function in functions.items():
        for shape in shapes:
            for scale in (1, 12, 200):
                golden.operator(name, [], function, x=golden.random(*shape) * scale)


def losses(golden):
    for n, k, scale in ((1, 1, 1), (1, 2, 1), (3, 10, 1), (64, 10, 4), (5, 3, 30), (7, 10, 100), (4, 17, 3),
                        (2, 1000, 2), (33, 5, 1), (16, 2, 50), (9, 26, 10), (8, 10, 1000)):
        golden.case("cross_entropy")
        logits = (golden.random(n, k) * scale).requires_grad_()
        golden.seed += 1
        labels = (stream(golden.seed << 32, n) % np.uint64(k)).astype(np.int64)
        loss = F.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        golden.tensor("x", logits)
        golden.ints("labels", labels)
        golden.doubles("loss", [loss.item()])
        golden.tensor("dx", logits.grad)
    shapes = ((1, 1, 1, 1), (2, 3, 4, 5), (6, 7), (3, 1, 9, 11), (33, 2), (4, 4, 4, 4))
    for index, shape in enumerate(shapes * 2):
        golden.case("squared_error")
        y = golden.random(*shape).requires_grad_()
        target = golden.random(*shape) * 3
        loss = F.mse_loss(y, target, reduction="sum" if index >= 6 else "mean")
        loss.backward()
        golden.ints("options", [index >= 6])
        golden.tensor("x", y)
        golden.tensor("target", target)
        golden.doubles("loss", [loss.item()])
        golden.tensor("dx", y.grad)


def sgd(golden):
    """Steps with given gradients {steps, count}: results {steps, count}, the velocity after the last."""
    options = [(0.1, 0, 0, 0), (0.5, 0, 0.01, 0), (0.1, 0.9, 0, 0), (0.1, 0.9, 0, 1), (0.01, 0.5, 0.1, 0),
               (0.01, 0.9, 5e-4, 1), (1.0, 0.99, 1e-3, 1), (0.9, 0, 0, 0), (2.0, 0.1, 0, 0),
               (1e-3, 0.9, 1e-4, 0), (0.25, 0.25, 0.25, 1), (0.3, 1.0, 0, 0)]
    for number, (lr, momentum, decay, nesterov) in enumerate(options):
        count, steps = 1 + 11 * number, 5
        golden.case("sgd")
        golden.doubles("options", [lr, momentum, decay, nesterov])
        p = golden.random(count).requires_grad_()
        golden.tensor("p", p)
        gradients = golden.random(steps, count)
        optimizer = torch.optim.SGD([p], lr=lr, momentum=momentum, weight_decay=decay,
                                    nesterov=bool(nesterov))
        after = []
        for gradient in gradients:
            p.grad = gradient.clone()
            optimizer.step()
            after.append(p.detach().clone())
        golden.tensor("gradients", gradients)
        golden.tensor("after", torch.stack(after))
        if momentum:
            golden.tensor("velocity", optimizer.state[p]["momentum_buffer"])


def training_data():
    count = BATCH * STEPS
    labels = (stream(DATA_SEED, count) % np.uint64(10)).astype(np.int64)
    noise = (stream(DATA_SEED + 1, count * 784) >> np.uint64(58)).astype(np.int64).reshape(count, 28, 28)
    for image, label in zip(noise, labels):
        patch = image[14 * (label // 5):14 * (label // 5) + 14, 5 * (label % 5) + 1:5 * (label % 5) + 5]
        patch[:] = 255 - patch
    return torch.from_numpy(noise).to(torch.float32).reshape(count, 1, 28, 28) / 255, torch.from_numpy(labels)


def digest(values):
    """Sum, sum of magnitudes, and 16 values spread evenly, of one tensor."""
    flat = values.detach().reshape(-1)
    sums = [flat.double().sum().item(), flat.double().abs().sum().item()]
    return sums + [flat[k * flat.numel() // 16].item() for k in range(16)]


def train(golden, name, net, gain, lr, momentum, decay, nesterov):
    """gain: of each layer; scales are gain * sqrt(6 / (fan_in + fan_out)) for weights, 0.1 for biases."""
    parameters = list(net.parameters())
    scales = []
    for index, p in enumerate(parameters):
        receptive = p[0, 0].numel() if p.dim() == 4 else 1
        fans = receptive * (p.shape[0] + p.shape[1]) if p.dim() > 1 else 0
        scales.append(gain[index // 2] * (6.0 / fans) ** 0.5 if fans else 0.1)
    scales = np.asarray(scales, dtype=np.float32)
    values = torch.from_numpy(uniform(WEIGHT_SEED, sum(p.numel() for p in parameters)))
    start = 0
    with torch.no_grad():
        for p, scale in zip(parameters, scales):
            p.copy_((values[start:start + p.numel()] * torch.tensor(scale)).reshape(p.shape))
            start += p.numel()
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    x, labels = training_data()
    losses = []
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        logits = net(x[batch])
        loss = F.cross_entropy(logits, labels[batch])
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            first_logits = logits
            first_gradients = [digest(p.grad) for p in parameters]
        optimizer.step()
    print(name, " ".join("%.4f" % loss for loss in losses))
    golden.case(name)
    golden.doubles("options", [lr, momentum, decay, nesterov])
    golden.ints("seeds", [DATA_SEED, WEIGHT_SEED, BATCH, STEPS])
    golden.tensor("scales", torch.from_numpy(scales))
    golden.doubles("losses", losses)
    golden.tensor("logits", first_logits)
    golden.doubles("gradients", first_gradients)
    golden.doubles("parameters", [digest(p) for p in parameters])


def trainings(golden):
    nn = torch.nn
    lenet = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10))
    train(golden, "lenet", lenet, (6, 10, 10, 4, 0.1), 0.9, 0, 0, False)
    relu = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))
    train(golden, "lenet-relu", relu, (1, 1, 1, 1, 1), 0.02, 0.9, 5e-4, True)


def main():
    torch.set_num_threads(1)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.bin")
    with open(path, "wb") as file:
        golden = Golden(file)
        for part in (convolutions, pools, linears, activations, losses, sgd, trainings):
            part(golden)


if __name__ == "__main__":
    main()
