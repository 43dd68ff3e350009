"""The gold score once more, one clip at a time in scalar numpy, from the published formulas.

Shares nothing with the package but the world's constants.
"""

import math

import numpy as np

from reelrl.rewards.moving_shapes.world import COLOURS, DIRECTIONS, SHAPES, SPEEDS


def coverage(video, ground, colour):
    u = np.array(colour) - ground
    square = float(u @ u)
    if square < 0.05:
        return np.zeros(video.shape[:3])
    out = np.zeros(video.shape[:3])
    for index in np.ndindex(*out.shape):
        offset = video[index] - ground
        a = min(max(float(offset @ u) / square, 0.0), 1.0)
        rest = offset - a * u
        out[index] = a * math.exp(-float(rest @ rest) / (2 * 0.15**2))
    return out


def template(shape, centres, radius, size):
    y, x = np.mgrid[0:size, 0:size].astype(float)
    frames = []
    for cx, cy in centres:
        dx, dy = x - cx, y - cy
        if shape == "circle":
            distance = radius - np.hypot(dx, dy)
        elif shape == "square":
            distance = radius * math.sqrt(math.pi) / 2 - np.maximum(abs(dx), abs(dy))
        else:
            inradius = radius * math.sqrt(math.pi / (3 * math.sqrt(3)))
            edges = [math.radians(angle) for angle in (90, 210, 330)]
            reach = [dx * math.cos(e) + dy * math.sin(e) for e in edges]
            distance = inradius - np.max(reach, axis=0)
        frames.append(np.clip(distance + 0.5, 0, 1))
    return np.array(frames)


def iou(a, b):
    return np.minimum(a, b).sum() / max(np.maximum(a, b).sum(), 1e-6)


def slow_gold_axes(video, factors):
    """(align, phys, fid) of one clip (F, S, S, 3) as a float64 array."""
    video = np.asarray(video, dtype=np.float64)
    frames, size = video.shape[:2]
    edge = np.ones((size, size), bool)
    edge[1:-1, 1:-1] = False
    border = np.sort(video[:, edge].reshape(-1, 3), axis=0)
    ground = border[(len(border) - 1) // 2]

    covers = [coverage(video, ground, c) for c in COLOURS.values()]
    colour = int(np.argmax([c.sum() for c in covers]))
    mask = np.where(covers[colour] > 0.25, covers[colour], 0.0)
    areas = mask.sum((1, 2))
    present = areas > 6
    if present.sum() < 4:
        return np.zeros(3)

    y, x = np.mgrid[0:size, 0:size]
    seen = [t for t in range(frames) if present[t]]
    points = np.zeros((frames, 2))
    for t in seen:
        points[t] = (mask[t] * x).sum() / areas[t], (mask[t] * y).sum() / areas[t]
    time = np.arange(frames) - (frames - 1) / 2
    design = np.stack([np.ones(len(seen)), time[seen]], axis=1)
    (middle, velocity), *_ = np.linalg.lstsq(design, points[seen], rcond=None)
    residual = points[seen] - design @ np.stack([middle, velocity])
    rmse = math.sqrt((residual**2).sum(1).mean())

    ranked = np.sort(areas[seen])
    radius = math.sqrt(ranked[(len(ranked) - 1) // 2] / math.pi)
    templates = [template(s, points, radius, size) for s in SHAPES]
    shape = int(np.argmax([iou(t, mask) for t in templates]))
    itself = [t for t in seen if int(np.argmax([iou(s[t], mask[t]) for s in templates])) == shape]

    speed = math.hypot(*velocity)
    heading = DIRECTIONS[factors.direction]
    cosine = max(0.0, float(velocity @ heading) / speed) if speed > 0.25 else 0.0
    hits = [
        float(list(COLOURS)[colour] == factors.colour),
        float(SHAPES[shape] == factors.shape),
        cosine,
        math.exp(-((speed - SPEEDS[factors.speed]) ** 2) / (2 * 0.35**2)),
    ]
    align = math.prod(max(hit, 0.1) ** 0.5 for hit in hits)

    variation = areas[seen].std() / areas[seen].mean()
    phys = math.exp(-(rmse**2) / (2 * 0.5**2)) * len(itself) / frames
    phys *= math.exp(-(variation**2) / (2 * 0.25**2))

    path = middle + time[:, None] * velocity
    drawn = template(SHAPES[shape], path, min(max(radius, 4.0), 6.0), size)[..., None]
    redrawn = 0.1 + drawn * (np.array(list(COLOURS.values())[colour]) - 0.1)
    error = math.sqrt(((video - redrawn) ** 2).mean() / ((redrawn - 0.1) ** 2).mean())
    return np.array([align, phys, math.exp(-(error**2) / (2 * 0.35**2))])
