"""PyTorch on the textbook LeNet, for tests/bench/peers.py: training and inference speed, in one line of JSON.

    python3 tests/bench/torch_lenet.py [--data DIR] [--threads N] [--examples N] [--batch N]

Trains for one epoch on the IDX files in DIR, or on random images of that shape where DIR has none. Some steps
before it warm up and are not timed. Data and order are ready beforehand; a step gathers its batch, as
training must.
"""

import argparse
import json
import os
import statistics
import sys
import time

try:
    import torch
    from torch import nn
except ImportError:
    sys.exit("torch_lenet.py: this Python has no torch")

WARM_UP = 10


def read_idx(path, header):
    with open(path, "rb") as f:
        return torch.frombuffer(bytearray(f.read()[header:]), dtype=torch.uint8)


def load(folder, count):
    """(images, labels, where they are from)"""
    images = os.path.join(folder, "train-images-idx3-ubyte")
    labels = os.path.join(folder, "train-labels-idx1-ubyte")
    if os.path.exists(images) and os.path.exists(labels):
        x = read_idx(images, 16).reshape(-1, 1, 28, 28)[:count]
        y = read_idx(labels, 8)[:count]
        source = folder
    else:
        x = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
        y = torch.randint(0, 10, (count,), dtype=torch.uint8)
        source = "random"
    return x.float() / 255, y.long(), source


def lenet():
    net = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10))
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
    return net


def train(net, x, y, batch):
    """Examples a second over one epoch, and its mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.9)
    criterion = nn.CrossEntropyLoss()
    order = torch.randperm(len(y))
    total = torch.zeros(())

    def step(index):
        optimizer.zero_grad()
        loss = criterion(net(x[index]), y[index])
        loss.backward()
        optimizer.step()
        return loss.detach() * len(index)

    for i in range(WARM_UP):
        step(order[:batch])
    begin = time.perf_counter()
    for i in range(0, len(y), batch):
        total += step(order[i:i + batch])
    seconds = time.perf_counter() - begin
    return len(y) / seconds, total.item() / len(y)


def latency(net, batch, threads):
    """Seconds a call: the median."""
    torch.set_num_threads(threads)
    x = torch.rand(batch, 1, 28, 28)
    times = []
    with torch.inference_mode():
        for i in range(WARM_UP):
            net(x)
        for i in range(200 if batch == 1 else 40):
            begin = time.perf_counter()
            net(x)
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data", help="folder of the IDX files (default: data)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--examples", type=int, default=60000)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    x, y, source = load(args.data, args.examples)
    net = lenet()
    speed, loss = train(net, x, y, args.batch)
    net.eval()
    print(json.dumps({
        "torch": torch.__version__, "threads": args.threads, "batch": args.batch, "examples": len(y),
        "data": source, "loss": loss, "examples_per_second": speed,
        "infer_1_seconds": latency(net, 1, 1),
        "infer_256_seconds": latency(net, 256, args.threads)}))


if __name__ == "__main__":
    main()
