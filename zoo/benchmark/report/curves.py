"""Numbers of a curve: over-optimisation, its price in KL, speed, comparisons on equal terms.

Everything here is a function of logged numbers, one array per quantity and one entry per iteration
(or evaluation); nan is "not measured" and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reelrl.algos.advantages.methods.dynamic_weight import hypervolume

Floats = NDArray[np.float64]


def _measured(*columns: ArrayLike) -> list[Floats]:
    """The entries at which every column was measured.

    Raises:
        ValueError: if the columns differ in length.
    """
    arrays = [np.asarray(c, float) for c in columns]
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"curves differ in shape: {[a.shape for a in arrays]}")
    kept = np.all([np.isfinite(a) for a in arrays], axis=0)
    return [a[kept] for a in arrays]


def z_score(values: ArrayLike, std: float) -> Floats:
    """Distance from the first entry, the base model, in standard deviations over its clips."""
    x = np.asarray(values, float)
    return (x - x[0]) / std if std > 0 else np.full_like(x, np.nan)


def hacking_gap(proxy: ArrayLike, gold: ArrayLike, proxy_std: float, gold_std: float) -> Floats:
    """z(proxy) - z(GOLD): gain of the optimised score beyond the truth, in base-model stds.

    0 where both rise alike, above 0 where the proxy runs ahead. Own definition; the two curves it
    subtracts are the pair of Gao et al. 2023 (arXiv 2210.10760, figure 1).

    Args:
        proxy: the trained score, the base model first.
        gold: GOLD of the same clips.
        proxy_std: of the base model's clips.
        gold_std: of the base model's clips.
    """
    return z_score(proxy, proxy_std) - z_score(gold, gold_std)


def ema(values: ArrayLike, window: float = 10) -> Floats:
    """Exponential mean with decay ``1 - 2 / (window + 1)``, its weights normalised from the start.

    No start-up bias: the first entry stays as it is. Equals ``pandas`` ``ewm(span=window)``.
    """
    x = np.asarray(values, float)
    decay = 1 - 2 / (window + 1)
    total, weight, out = 0.0, 0.0, np.empty_like(x)
    for i, value in enumerate(x):
        total, weight = decay * total + value, decay * weight + 1
        out[i] = total / weight
    return out


@dataclass(frozen=True)
class Onset:
    """Where the truth peaks while the proxy goes on being optimised.

    Attributes:
        iteration: of the highest smoothed GOLD.
        gold: smoothed GOLD there.
        final: smoothed GOLD at the end.
        proxy: smoothed proxy at the onset.
    """

    iteration: float
    gold: float
    final: float
    proxy: float

    @property
    def drop(self) -> float:
        """GOLD lost between its peak and the end, 0 or more."""
        return self.gold - self.final


def goodhart_onset(
    iterations: ArrayLike, gold: ArrayLike, proxy: ArrayLike, window: float = 10
) -> Onset:
    """``t* = argmax_t EMA(GOLD)(t)``, the turn of the gold curve in Gao et al. 2023 (figure 1).

    A peak exists in every noisy curve: read the onset together with :attr:`Onset.drop`.

    Raises:
        ValueError: if nothing was measured.
    """
    t, g, p = _measured(iterations, gold, proxy)
    if len(t) == 0:
        raise ValueError("the onset needs at least one iteration with gold and proxy, got none")
    smooth, smooth_proxy = ema(g, window), ema(p, window)
    peak = int(np.argmax(smooth))
    return Onset(float(t[peak]), float(smooth[peak]), float(smooth[-1]), float(smooth_proxy[peak]))


@dataclass(frozen=True)
class GaoFit:
    """Coefficients of gold gain against ``d = sqrt(KL)``, and the share of variance explained.

    Attributes:
        form: "rl" for ``d (alpha - beta log d)``, "bon" for ``d (alpha - beta d)``.
        alpha: initial slope.
        beta: strength of over-optimisation.
        r2: 1 is a perfect fit; about the mean, so below 0 is worse than a constant.
        points: number of points.
    """

    form: Literal["rl", "bon"]
    alpha: float
    beta: float
    r2: float
    points: int

    def __call__(self, d: ArrayLike) -> Floats:
        """Fitted gold gain at ``d``, 0 at 0."""
        x = np.asarray(d, float)
        bend = np.log(np.where(x > 0, x, 1.0)) if self.form == "rl" else x
        return x * (self.alpha - self.beta * bend)


def gao_fit(kl: ArrayLike, gain: ArrayLike, form: Literal["rl", "bon"] = "rl") -> GaoFit | None:
    """Least-squares fit of the laws of over-optimisation of Gao et al. 2023, section 1.

    ``R_RL(d) = d (alpha - beta log d)`` and ``R_BoN(d) = d (alpha - beta d)``, ``d = sqrt(KL)``;
    both are linear in their coefficients.

    Args:
        kl: from the base model, in nats; points at 0 carry no information and are left out.
        gain: GOLD minus the base model's.
        form: which law.

    Returns:
        None for fewer than three points with KL above 0.
    """
    k, g = _measured(kl, gain)
    d, g = np.sqrt(k[k > 0]), g[k > 0]
    if len(d) < 3:
        return None
    design = np.stack([d, -d * (np.log(d) if form == "rl" else d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, g, rcond=None)
    spread = np.square(g - g.mean()).sum()
    error = np.square(g - design @ [alpha, beta]).sum()
    r2 = 1 - error / spread if spread > 0 else np.nan
    return GaoFit(form, float(alpha), float(beta), float(r2), len(d))


def area_under_curve(x: ArrayLike, y: ArrayLike, upto: float | None = None) -> float:
    """Mean height of ``y`` from the first ``x`` to ``upto``, by trapezoids; nan if not reached.

    With iterations, seconds or reward calls as ``x`` it is the area under the curve divided by the
    budget, in the units of ``y``. Methods are comparable at equal ``upto`` only.
    """
    x, y = _measured(x, y)
    end = float(x[-1]) if upto is None and len(x) else upto
    if len(x) < 2 or end is None or end > x[-1] or end <= x[0]:
        return np.nan
    inside = x < end
    xs = np.append(x[inside], end)
    ys = np.append(y[inside], np.interp(end, x, y))
    return float(np.trapezoid(ys, xs) / (end - x[0]))


def steps_to_threshold(x: ArrayLike, y: ArrayLike, threshold: float) -> float:
    """First measured ``x`` at which ``y`` is at the threshold or above; inf (censored) if never."""
    x, y = _measured(x, y)
    reached = np.flatnonzero(y >= threshold)
    return float(x[reached[0]]) if len(reached) else np.inf


def at_level(x: ArrayLike, y: ArrayLike, level: float) -> float:
    """``y`` where ``x`` first reaches ``level``, linear in between; nan if it never does.

    For a comparison at equal proxy gain or equal KL, where equal iterations would reward the method
    that merely moved less.
    """
    x, y = _measured(x, y)
    reached = np.flatnonzero(x >= level)
    if not len(reached):
        return np.nan
    i = int(reached[0])
    if i == 0:
        return float(y[0])
    share = (level - x[i - 1]) / (x[i] - x[i - 1])
    return float(y[i - 1] + share * (y[i] - y[i - 1]))


def at_common_level(
    x_a: ArrayLike, y_a: ArrayLike, x_b: ArrayLike, y_b: ArrayLike
) -> tuple[float, float, float]:
    """``y`` of two runs at the highest ``x`` that both reach, and that ``x``."""
    tops = [np.nanmax(np.asarray(x, float), initial=-np.inf) for x in (x_a, x_b)]
    level = float(min(tops))
    return at_level(x_a, y_a, level), at_level(x_b, y_b, level), level


def early_stopped(watched: ArrayLike, values: ArrayLike) -> tuple[int, float]:
    """Index at which ``watched`` peaks and ``values`` there: early stopping on a held-out split.

    The split that decides must not be the one that is read. The first of equal peaks counts.

    Raises:
        ValueError: if nothing was measured.
    """
    w, v = np.asarray(watched, float), np.asarray(values, float)
    usable = np.isfinite(w) & np.isfinite(v)
    if not usable.any():
        raise ValueError("early stopping needs at least one evaluation, got none")
    best = int(np.argmax(np.where(usable, w, -np.inf)))
    return best, float(v[best])


def volume(points: ArrayLike) -> float:
    """Volume between the origin and the Pareto front of ``points`` (N, K), all maximised. Exact.

    Zitzler and Thiele 1999, reference point 0. A point with a coordinate that is missing, or at or
    below 0, adds nothing.

    Raises:
        ValueError: if the points are not (N, K).
    """
    p = np.asarray(points, float)
    if p.ndim != 2:
        raise ValueError(f"points must have shape (N, K), got {p.shape}")
    return hypervolume(p[np.isfinite(p).all(1)], np.zeros(p.shape[1]))
