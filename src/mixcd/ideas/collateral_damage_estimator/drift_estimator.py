"""`DriftEstimator`: how far the model has moved, forecast for every prior sample. Ours, not the paper's."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.special import ndtr, softmax

from mixcd.ideas.collateral_damage_estimator.small_matrices import SmallMatrices
from mixcd.words.errors import DataError, SettingError, UnknownSampleError, shorten
from mixcd.words.vocabulary import (
    BasePredictions,
    Belief,
    CollateralDamageEstimator,
    EstimatorSettings,
    Flags,
    Floats,
    Ids,
    Observation,
    Partition,
)

UNCACHED_ROW = -1
"""The row of a prior sample whose base prediction is not in the cache."""
Score = Literal["chance", "drop", "product"]


@dataclass(frozen=True)
class Drift(EstimatorSettings):
    """Forecast the damage of every sample from the drift of the logits: the settings of a `DriftEstimator`.

    Raises:
        SettingError: If discount, ridge, noise or score make no sense.
    """

    discount: float = 0.98
    ridge: float = 3.0
    noise: float = 1.0
    score: Score = "chance"

    reads_features: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise SettingError(
                f"`discount` is {self.discount}, but it must lie in (0, 1]. Pass 0.98, for example; 1 forgets nothing."
            )
        if not 0 < self.ridge < np.inf:
            raise SettingError(f"`ridge` is {self.ridge}, but it must be positive and finite. Pass a value such as 3.")
        if not 0 <= self.noise < np.inf:
            raise SettingError(
                f"`noise` is {self.noise}, but it must be finite and not negative. Pass 1 or 0, for example."
            )
        if self.score not in get_args(Score):
            raise SettingError(
                f'`score` is {self.score!r}, but only "chance", "drop" and "product" exist. Pass one of them.'
            )

    def bind(self, partition: Partition, predictions: BasePredictions) -> "DriftEstimator":
        """Return the estimator; it tells samples apart one by one, whatever the partition.

        Raises:
            SettingError: If logits and features were not cached.
        """
        if "logits" not in predictions.arrays:
            raise SettingError(
                "The drift estimator needs logits and features of the base model, but none were cached. Pass "
                '`features=64` to `attach`, or `estimator="drift"`, which asks for them.'
            )
        rows = None
        if predictions.sample_ids.size < predictions.sample_count:
            rows = np.full(predictions.sample_count, UNCACHED_ROW)
            rows[predictions.sample_ids] = np.arange(predictions.sample_ids.size)
        logits, features = predictions.arrays["logits"], predictions.arrays["features"]
        return DriftEstimator(logits, features, predictions.classes, predictions.correct, rows, **vars(self))


@dataclass(frozen=True)
class DriftState:
    """What the rehearsed samples have shown of the model's drift, older steps discounted.

    A and the inverse follow from G and H; they are kept, so that each step solves once, for its belief and the next
    step's errors alike.

    Args:
        gram: G = Σ φ φᵀ, shape (features + 1, features + 1).
        cross: H = Σ φ δᵀ, shape (features + 1, classes).
        inverse: (G + λ I)⁻¹, of the shape of G.
        coefficients: A = (G + λ I)⁻¹ H, of the shape of H.
        squared_error: Sum of squared forecast errors over classes, divided by their number, shape (1,).
        weight: How many samples that sum rests on, shape (1,).
    """

    gram: Floats
    cross: Floats
    inverse: Floats
    coefficients: Floats
    squared_error: Floats
    weight: Floats


@dataclass(frozen=True)
class DriftEstimator(CollateralDamageEstimator[DriftState]):
    """Forecast which prior samples are damaged by regressing the drift of the logits on cached features.

    Each rehearsed sample reveals its drift δ = z_f' − z_f. A discounted ridge regression δ ≈ φ A forecasts it for
    every prior sample, and with it the chance that another class now beats the label. While nothing is known, the
    forecast leans on the base model's own margins.

    Paper: in the place of α_k, a rate for each sample instead of each bin.

    Args:
        base_logits: The base model's logits z_f, shape (cached, classes); may be memory-mapped 16-bit floats.
        features: φ, standardised, shape (cached, features); likewise.
        prediction: The class that the base model predicts, shape (cached,): the label, where it is right.
        base_correct: Whether the base model got each sample right, shape (cached,).
        rows: The row of each prior sample in these arrays, −1 for one that is not cached, shape (samples,);
            None when all are cached, in order.
        discount: γ in (0, 1], applied to everything learnt before at each step.
        ridge: λ > 0, the weight of the belief that nothing drifts.
        noise: How much of the residual spread s² counts beside the doubt about A: 1 for the chance of a single
            sample, 0 for the chance that its mean forecast is damaged, which is sharper.
        score: What is drawn in proportion to: "chance" of damage; expected "drop" in the label's probability;
            or their "product".

    Raises:
        SettingError: If discount, ridge, noise or score make no sense.
        DataError: If the arrays cover different numbers of samples.

    Example:
        >>> estimator = DriftEstimator(
        ...     base_logits=np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]),
        ...     features=np.array([[1.0], [1.0], [-1.0]]),
        ...     prediction=np.array([0, 0, 1]),
        ...     base_correct=np.array([True, True, True]),
        ... )
        >>> moved = Observation(np.array([0]), np.array([False]), np.array([3.0]), np.array([[-1.0, 3.0]]))
        >>> state = estimator.init()
        >>> for _ in range(20):
        ...     state = estimator.update(state, moved)
        >>> estimator.damage_probability(estimator.belief(state), np.array([1, 2])).round(2).tolist()
        [1.0, 0.11]
    """

    base_logits: NDArray[np.floating]
    features: NDArray[np.floating]
    prediction: Ids
    base_correct: Flags
    rows: Ids | None = None
    discount: float = 0.98
    ridge: float = 3.0
    noise: float = 1.0
    score: Score = "chance"

    reads_logits: ClassVar[bool] = True
    draws_by_bins: ClassVar[bool] = False

    def __post_init__(self) -> None:
        Drift(self.discount, self.ridge, self.noise, self.score)
        counts = {len(self.base_logits), len(self.features), len(self.prediction), len(self.base_correct)}
        if len(counts) > 1:
            raise DataError(
                f"Logits, features, predictions and correctness cover {shorten(sorted(counts))} samples. They must "
                "cover the same prior samples. Read all of them from one cache."
            )

    def init(self) -> DriftState:
        """Return the state before any observation: no drift, and a doubt of one nat² that weighs one sample."""
        width, class_count = self.features.shape[1] + 1, self.base_logits.shape[1]
        nothing = np.zeros((width, class_count))
        return DriftState(
            gram=np.zeros((width, width)),
            cross=nothing,
            inverse=np.eye(width) / self.ridge,
            coefficients=nothing,
            squared_error=np.ones(1),
            weight=np.ones(1),
        )

    def update(self, state: DriftState, observation: Observation) -> DriftState:
        """Add one step's observation, everything before it discounted; the state given is left as it was.

        No inference happens here: the logits are those of the forward pass that trained on these samples.

        Raises:
            DataError: If the observation brings no logits.
            UnknownSampleError: If an observed sample lies outside the prior data.
        """
        if observation.logits is None:
            raise DataError(
                "The observation has no logits, but drift is read off them. Let the observer collect logits: an "
                "estimator says so by `reads_logits = True`."
            )
        rows, logits = self._rows_of(observation.sample_ids), observation.logits
        if self.rows is not None:
            logits, rows = logits[rows != UNCACHED_ROW], rows[rows != UNCACHED_ROW]
        if not rows.size:
            return state
        with SmallMatrices():
            return self._learn(state, rows, logits)

    def belief(self, state: DriftState) -> Belief:
        """Return A, (G + λ I)⁻¹ and s²: shapes (features + 1, classes), (features + 1, features + 1), (1,)."""
        return state.coefficients, state.inverse, state.squared_error / state.weight

    def damage_probability(self, belief: Belief, sample_ids: Ids) -> Floats:
        """Return the chance that each sample was right and no longer is, or what `score` asks for; shape (samples,).

        A sample without a cached base prediction gets the mean of the cached ones among those asked for.
        """
        rows = self._rows_of(sample_ids)
        if self.rows is None:
            return self._weigh(belief, rows)
        known = rows != UNCACHED_ROW
        weights = np.ones(sample_ids.size)
        if known.any():
            weights[known] = self._weigh(belief, rows[known])
            weights[~known] = weights[known].mean()
        return weights

    def _learn(self, state: DriftState, rows: Ids, logits: Floats) -> DriftState:
        phi = self._read_features(rows, np.float64)
        drift = logits - self.base_logits.take(rows, axis=0)  # δ = z_f' − z_f
        error = drift - phi @ state.coefficients  # before this step is learnt: an honest residual
        gram = self.discount * state.gram + phi.T @ phi  # G ← γ G + Σ φ φᵀ
        cross = self.discount * state.cross + phi.T @ drift  # H ← γ H + Σ φ δᵀ
        inverse = self._invert(gram)
        return DriftState(
            gram=gram,
            cross=cross,
            inverse=inverse,
            coefficients=inverse @ cross,
            squared_error=self.discount * state.squared_error + np.vdot(error, error) / error.shape[1],
            weight=self.discount * state.weight + rows.size,
        )

    def _invert(self, gram: Floats) -> Floats:
        """Return (G + λ I)⁻¹."""
        ridged, diagonal = gram.copy(order="F"), slice(None, None, len(gram) + 1)
        ridged.flat[diagonal] += self.ridge
        factor, _ = dpotrf(ridged, lower=True, overwrite_a=True)
        triangle, _ = dpotri(factor, lower=True, overwrite_c=True)  # zero above the diagonal
        inverse: Floats = triangle + triangle.T
        inverse.flat[diagonal] /= 2
        return inverse

    def _weigh(self, belief: Belief, rows: Ids) -> Floats:
        right = self.base_correct[rows]  # 1[f right]
        weights = np.zeros(rows.size)
        with SmallMatrices():
            weights[right] = self._forecast(belief, rows[right])
        return weights

    def _forecast(self, belief: Belief, rows: Ids) -> NDArray[np.floating]:
        """Weigh samples that the base model had right; in single precision, which takes half the time."""
        coefficients, inverse, squared_error = belief
        phi, labels = self._read_features(rows, np.float32), self.prediction[rows]
        products = phi @ np.concatenate((inverse, coefficients), axis=1, dtype=np.float32)
        base_logits = self.base_logits.take(rows, axis=0).astype(np.float32)
        logits = base_logits + products[:, len(inverse) :]  # ẑ = z_f + φ A
        weight = np.ones(rows.size)
        if self.score != "chance":
            weight *= np.maximum(0.0, _probability(base_logits, labels) - _probability(logits, labels))
        if self.score != "drop":
            leverage = np.einsum("ij,ij->i", products[:, : len(inverse)], phi)  # φᵀ (G + λ I)⁻¹ φ
            spread = np.sqrt(2 * squared_error * (self.noise + leverage))  # σ² = 2 s² (1 + φᵀ (G + λ I)⁻¹ φ)
            weight *= ndtr(_margin(logits, labels) / spread)  # Φ(m / σ)
        return weight

    def _read_features(self, rows: Ids, precision: type[np.floating]) -> NDArray[np.floating]:
        """Return φ: the features, and a one."""
        phi = np.empty((rows.size, self.features.shape[1] + 1), precision)
        phi[:, :-1], phi[:, -1] = self.features.take(rows, axis=0), 1.0
        return phi

    def _rows_of(self, sample_ids: Ids) -> Ids:
        sample_count = len(self.prediction) if self.rows is None else len(self.rows)
        unknown = sample_ids[(sample_ids < 0) | (sample_ids >= sample_count)]
        if unknown.size:
            raise UnknownSampleError(
                f"`observation` names sample {shorten(unknown)}, but the cache covers samples 0 to {sample_count - 1}. "
                "Predict the same prior dataset that training draws from."
            )
        return sample_ids if self.rows is None else self.rows[sample_ids]


def _margin(logits: NDArray[np.floating], labels: Ids) -> NDArray[np.floating]:
    """How far the best other class is ahead of the label: m = max_{c ≠ y} ẑ_c − ẑ_y."""
    label, others = (np.arange(labels.size), labels), logits.copy()
    others[label] = -np.inf
    margin: NDArray[np.floating] = others.max(axis=1) - logits[label]
    return margin


def _probability(logits: NDArray[np.floating], labels: Ids) -> NDArray[np.floating]:
    """The label's softmax probability."""
    probability: NDArray[np.floating] = softmax(logits, axis=1)[np.arange(labels.size), labels]
    return probability
