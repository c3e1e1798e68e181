#!/usr/bin/env python3
"""Works out the golden series of the autoscaler from the published KPA formulas, without looking at our code.

Run it to write kpa.csv beside it; the test replays the csv through `Autoscaler`. One decision a second over four
minutes: a quiet start, a burst into panic, a plateau, a slow fall and silence. Ready replicas follow the wish two
seconds later.
"""

import csv
import math
import pathlib

STABLE, PANIC, TARGET, UTILISATION = 60, 6, 10.0, 0.7
THRESHOLD, UP, DOWN = 2.0, 1000.0, 2.0
LAG = 2


def load(second):
    if second < 10:
        return 3.0
    if second < 40:
        return 80.0
    if second < 100:
        return 35.0 + (second % 5)
    if second < 130:
        return 8.0
    return 0.0


def average(values, window):
    """values[i] is the bucket of second i; all seconds up to the newest were written."""
    recent = values[-window:]
    return round(sum(recent) / len(recent), 6)


def main():
    target = max(0.01, TARGET * UTILISATION)
    values, rows, wishes = [], [], []
    panic_since, most = None, 0
    last_active = None
    for now in range(240):
        concurrency = load(now)
        values.append(concurrency)
        if concurrency > 0:
            last_active = now
        ready = wishes[now - LAG] if now >= LAG else 0
        rp = max(1, ready)
        stable, panic = average(values, STABLE), average(values, PANIC)
        most_up, least = math.ceil(UP * rp), math.floor(rp / DOWN)
        wants_stable, wants_panic = math.ceil(stable / target), math.ceil(panic / target)
        by_stable = min(max(wants_stable, least), most_up)
        by_panic = min(max(wants_panic, least), most_up)
        over = wants_panic / rp >= THRESHOLD
        if over:
            if panic_since is None:
                most = 0
            panic_since = now
        elif panic_since is not None and panic_since + STABLE < now:
            panic_since = None
        if panic_since is not None:
            most = max(most, by_stable, by_panic)
            wish = most
        else:
            wish = by_stable
        if wish == 0 and last_active + STABLE > now:
            wish = 1
        wishes.append(wish)
        rows.append([now, concurrency, ready, wish, int(panic_since is not None), f"{stable:.6f}", f"{panic:.6f}"])
    path = pathlib.Path(__file__).with_name("kpa.csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["second", "concurrency", "ready", "desired", "panicking", "stable", "panic"])
        writer.writerows(rows)


main()
