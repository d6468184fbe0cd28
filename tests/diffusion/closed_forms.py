"""Data distributions whose perfect denoiser and probability flow have closed forms."""

import math

import numpy as np

_erf = np.vectorize(math.erf)
NUMPY_SCALES = {
    "linear": lambda n: (1 - n, n),
    "cosine": lambda n: (np.cos(n * np.pi / 2), np.sin(n * np.pi / 2)),
}


class Mixture:
    """Pixels that are independently distributed as a mixture of normal distributions.

    The flow of a one-dimensional distribution keeps each point at its quantile, because points
    cannot overtake each other. The solution is therefore exact, without integrating anything.
    """

    def __init__(self, path: str, weights=(0.3, 0.7), means=(-0.6, 0.5), stds=(0.3, 0.2)):
        self.scales = NUMPY_SCALES[path]
        self.weights, self.means, self.stds = (np.array(v, float) for v in (weights, means, stds))

    def get_normals(self, level):
        """Return the means and standard deviations of the noisy components."""
        alpha, sigma = self.scales(level)
        return alpha * self.means, np.sqrt((alpha * self.stds) ** 2 + sigma**2)

    def denoise(self, x, level):
        """Return E[x0 | x] for an array x."""
        alpha, _ = self.scales(level)
        means, stds = self.get_normals(level)
        distance = (np.asarray(x, np.float64)[..., None] - means) / stds
        logs = np.log(self.weights / stds) - distance**2 / 2
        shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        estimates = self.means + alpha * self.stds**2 / stds * distance
        return (shares * estimates).sum(axis=-1)

    def solve(self, x, start, end):
        """Return the points at level `end` of the trajectories through x at level `start`."""
        quantiles = self._find_quantiles(x, start)
        low, high = np.full(x.shape, -20.0), np.full(x.shape, 20.0)
        for _ in range(100):
            middle = (low + high) / 2
            is_below = self._find_quantiles(middle, end) < quantiles
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        return (low + high) / 2

    def _find_quantiles(self, x, level):
        means, stds = self.get_normals(level)
        distance = (x[..., None] - means) / stds
        return (self.weights * (1 + _erf(distance / math.sqrt(2))) / 2).sum(axis=-1)


def make_gaussian(path: str, mean=0.3, std=0.4) -> Mixture:
    """Return a mixture of one component."""
    return Mixture(path, (1.0,), (mean,), (std,))


def run_table(table, denoise, x, draw=None):
    """Run a table in float64 as it is defined. Return x and the last estimate."""
    estimates = [np.zeros_like(x)] * 3
    for index, level in enumerate(table.levels):
        estimates = [denoise(x, level), *estimates[:2]]
        x = table.carry[index] * x + np.tensordot(table.estimates[index], estimates, 1)
        if draw is not None:
            x += table.noise[index] * draw(index)
    return x, estimates[0]


def compute_moments(table, gaussian, mean, std):
    """Return the mean and the standard deviation of the images of a table, for Gaussian data.

    The table and the ideal denoiser are linear. Each image is therefore a constant plus independent
    normal draws, and an array of its coefficients stands for the image; no random numbers are needed.

    Args:
      table: the sampler's table.
      gaussian: the data, made by `make_gaussian`.
      mean: the mean of x before the first row.
      std: its standard deviation.

    Returns:
      The moments of x and those of the last estimate.
    """
    x = np.zeros(len(table.levels) + 2)
    x[:2] = mean, std

    def denoise(x, level):
        constant = gaussian.denoise(np.zeros(1), level)[0]
        slope = gaussian.denoise(np.ones(1), level)[0] - constant
        return slope * x + constant * np.eye(len(x))[0]

    results = run_table(table, denoise, x, lambda index: np.eye(len(x))[index + 2])
    return [(result[0], np.linalg.norm(result[1:])) for result in results]
