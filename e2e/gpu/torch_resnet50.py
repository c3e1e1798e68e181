"""PyTorch's ResNet50 on the same card: latency and throughput by batch size, eager and compiled.

    torch_resnet50.py SECONDS DEVICE BATCH...

Prints one line of JSON for each measurement as it is made, the most valuable first. Written out here, because torchvision need not
be there; its weights don't matter for speed.
"""

import json
import sys
import time

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.short = nn.Identity()
        if stride != 1 or inside != out:
            self.short = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.body(x) + self.short(x))


def resnet50() -> nn.Module:
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for n in range(blocks):
            layers.append(Block(inside, width, stride if n == 0 else 1))
            inside = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)).eval()


PRECISIONS = {"tf32": torch.float32, "f16": torch.float16, "f32": torch.float32, "bf16": torch.bfloat16}


def measure(model: nn.Module, x: torch.Tensor, limit: float) -> dict:
    cuda = x.is_cuda
    times, end = [], time.perf_counter() + limit
    with torch.inference_mode():
        first = time.perf_counter()
        for _ in range(3):
            model(x)
        if cuda:
            torch.cuda.synchronize()
        first = time.perf_counter() - first
        while len(times) < 5 or (time.perf_counter() < end and len(times) < 200):
            start = time.perf_counter()
            model(x).cpu()
            times.append(time.perf_counter() - start)
    times.sort()
    median = times[len(times) // 2]
    return {"first_three_s": first, "median_ms": 1000 * median, "images_per_s": x.shape[0] / median, "runs": len(times)}


def main() -> None:
    seconds, device, batches = float(sys.argv[1]), sys.argv[2], [int(b) for b in sys.argv[3:]]
    end = time.perf_counter() + seconds
    for how in ("eager", "compiled"):
        for precision, dtype in PRECISIONS.items():
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
            model = resnet50().to(device, dtype, memory_format=torch.channels_last)
            if how == "compiled":
                model = torch.compile(model)
            for batch in batches:
                if time.perf_counter() > end:
                    return
                x = torch.rand(batch, 3, 224, 224).to(device, dtype, memory_format=torch.channels_last)
                found = measure(model, x, 0.5 if how == "eager" else 0.3)
                print(json.dumps({"how": how, "precision": precision, "batch": batch, **found}), flush=True)


if __name__ == "__main__":
    main()
