"""PyTorch on the GPU, for tests/bench/bench_cuda.py: what bench_cuda measures of cnn.h, in one JSON document.

    python3 tests/bench/torch_cuda.py [--quick] [--only lenet|conv|NAME]

LeNet's training in three forms: eager with batches gathered on the host (section eager-host), eager with the data
resident on the GPU (eager), and resident data with the whole step in a CUDA graph (graph). Inference eager and in a
graph. Convolutions by cuDNN in float32 (conv) and with TF32 allowed (tf32), cuDNN choosing among its algorithms.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    print("this Python has no torch")
    sys.exit(77)

from torch_lenet import lenet

EXAMPLES = 60000
SHAPES = (  # name, n, c, h, w, o, kernel, stride, padding, dilation, groups: those of bench_cuda.cu
    ("vgg1.2", 32, 64, 224, 224, 64, 3, 1, 1, 1, 1),
    ("vgg2.2", 32, 128, 112, 112, 128, 3, 1, 1, 1, 1),
    ("vgg3.2", 32, 256, 56, 56, 256, 3, 1, 1, 1, 1),
    ("vgg4.2", 32, 512, 28, 28, 512, 3, 1, 1, 1, 1),
    ("vgg5", 32, 512, 14, 14, 512, 3, 1, 1, 1, 1),
    ("res7x7s2", 32, 3, 224, 224, 64, 7, 2, 3, 1, 1),
    ("res1x1", 32, 256, 56, 56, 64, 1, 1, 0, 1, 1),
    ("res3x3s2", 32, 128, 56, 56, 128, 3, 2, 1, 1, 1),
    ("late1x1", 32, 2048, 7, 7, 512, 1, 1, 0, 1, 1),
    ("dilated", 32, 64, 56, 56, 64, 3, 1, 2, 2, 1),
    ("groups4", 32, 128, 56, 56, 128, 3, 1, 1, 1, 4),
    ("depthwise", 32, 128, 56, 56, 128, 3, 1, 1, 1, 128),
    ("lenet1", 256, 1, 28, 28, 6, 5, 1, 2, 1, 1),
    ("lenet2", 256, 6, 14, 14, 16, 5, 1, 0, 1, 1),
)


def timed(body, quick):
    """Seconds a call: the median of rounds of so many calls that a round lasts a while."""
    for _ in range(3):
        body()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    body()
    torch.cuda.synchronize()
    calls = max(1, int((2e-3 if quick else 2e-2) / (time.perf_counter() - begin)))
    rounds = []
    for _ in range(3 if quick else 7):
        begin = time.perf_counter()
        for _ in range(calls):
            body()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - begin) / calls)
    return statistics.median(rounds)


def captured(body):
    """The body as a CUDA graph, after a few runs beside the main stream, as capture needs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            body()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def train(form, batch, steps, data):
    """Seconds a step. data: bytes and labels on the host."""
    net = lenet().cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    on_host = form == "eager-host"
    images, labels = data if on_host else (t.cuda() for t in data)
    device = "cpu" if on_host else "cuda"
    index = torch.zeros(batch, dtype=torch.long, device=device)
    total = torch.zeros((), device="cuda")

    def step():
        optimizer.zero_grad()
        x, y = images[index].cuda(non_blocking=True), labels[index].cuda(non_blocking=True)
        loss = criterion(net(x.float() / 255), y)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    run = captured(step).replay if form == "graph" else step
    seconds = []
    for repetition in range(4):
        order = torch.randperm(EXAMPLES, device=device)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for i in range(steps):
            first = i % (EXAMPLES // batch) * batch
            index.copy_(order[first:first + batch])
            run()
        torch.cuda.synchronize()
        if repetition:
            seconds.append((time.perf_counter() - begin) / steps)
    return statistics.median(seconds)


def lenet_results(results, args):
    data = (torch.randint(0, 256, (EXAMPLES, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (EXAMPLES,)))
    for batch in (256, 64, 1024):
        for form in ("eager-host", "eager", "graph"):
            steps = 20 if args.quick else 117 if form == "eager-host" else 234
            seconds = train(form, batch, steps, data)
            results.append({"section": form, "name": f"batch{batch}", "pass": "train", "seconds": seconds,
                            "examples_per_second": batch / seconds})
    net = lenet().cuda().eval()
    with torch.inference_mode():
        for batch in (1, 256):
            x = torch.rand(batch, 1, 28, 28, device="cuda")
            for form, body in (("eager", lambda: net(x)), ("graph", captured(lambda: net(x)).replay)):
                def complete():
                    body()
                    torch.cuda.synchronize()
                seconds = timed(complete, args.quick)
                results.append({"section": form, "name": f"batch{batch}", "pass": "infer", "seconds": seconds,
                                "examples_per_second": batch / seconds})


def conv_results(results, args, shape):
    name, n, c, h, w, o, kernel, stride, padding, dilation, groups = shape
    x = torch.rand(n, c, h, w, device="cuda") - 0.5
    weight = torch.rand(o, c // groups, kernel, kernel, device="cuda") - 0.5
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        dy = F.conv2d(x, weight, None, stride, padding, dilation, groups)
        flop = 2 * dy.numel() * weight[0].numel()

        def backward(mask):
            return torch.ops.aten.convolution_backward(
                dy, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups, mask)

        passes = {"forward": lambda: F.conv2d(x, weight, None, stride, padding, dilation, groups),
                  "dx": lambda: backward([True, False, False]), "dw": lambda: backward([False, True, False])}
        for which, body in passes.items():
            seconds = timed(body, args.quick)
            results.append({"section": "tf32" if tf32 else "conv", "name": name, "pass": which,
                            "seconds": seconds, "gflops": flop / seconds * 1e-9})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("this torch sees no GPU")
        sys.exit(77)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    results = []
    if args.only in (None, "lenet"):
        lenet_results(results, args)
    for shape in SHAPES:
        if args.only in (None, "conv", shape[0]):
            with torch.no_grad():
                conv_results(results, args, shape)
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "results": results}))


if __name__ == "__main__":
    main()
