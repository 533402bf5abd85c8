"""Small models trained on the spot by the libraries that people train with, in the files that those write. Each
function returns what the library itself answers to `rows`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rows(count: int = 200, columns: int = 5, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, columns)).astype(np.float32)


def classes(table: Array, count: int = 2) -> Array:
    """A class for each row, which depends on the row."""
    return (table[:, 0] + table[:, 1] * table[:, 2] > 0).astype(int) + (count > 2) * (table[:, 3] > 0.5).astype(int)


def skops_pipeline(path: Path) -> dict[str, Array]:
    """Scaled, then a logistic regression, with classes that are words."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _skops(make_pipeline(StandardScaler(), LogisticRegression()), path, np.array(["no", "yes"])[classes(rows())])


def skops_forest(path: Path) -> dict[str, Array]:
    from sklearn.ensemble import RandomForestClassifier

    return _skops(RandomForestClassifier(10, random_state=0), path, classes(rows(), 3))


def skops_regressor(path: Path) -> dict[str, Array]:
    from sklearn.ensemble import GradientBoostingRegressor

    return _skops(GradientBoostingRegressor(n_estimators=10, random_state=0), path, rows()[:, 0] * 3)


def lightgbm(path: Path, **parameters: object) -> dict[str, Array]:
    import lightgbm

    classes_there = int(str(parameters.get("num_class", 2)))
    data = lightgbm.Dataset(rows(), classes(rows(), classes_there))
    settings = {"verbose": -1, "seed": 0, "objective": "binary", **parameters}
    booster = lightgbm.train(settings, data, 10)
    booster.save_model(path)
    return _scores(booster.predict(rows()), settings["objective"] in ("binary", "multiclass"))


def xgboost(path: Path, **parameters: object) -> dict[str, Array]:
    import xgboost

    names = ["age", "amount", "country", "device", "entropy"]
    classes_there = int(str(parameters.get("num_class", 2)))
    data = xgboost.DMatrix(rows(), classes(rows(), classes_there), feature_names=names)
    settings = {"seed": 0, "objective": "binary:logistic", **parameters}
    booster = xgboost.train(settings, data, 10)
    booster.save_model(path)
    return _scores(booster.predict(data), settings["objective"] in ("binary:logistic", "multi:softprob"))


def _skops(estimator: Any, path: Path, answers: Array) -> dict[str, Array]:
    from skops import io

    estimator.fit(rows(), answers)
    io.dump(estimator, path)
    if not hasattr(estimator, "predict_proba"):
        return {"variable": estimator.predict(rows())[:, None]}
    return {"label": estimator.predict(rows()), "probabilities": estimator.predict_proba(rows())}


def _scores(scores: Array, is_classifier: bool) -> dict[str, Array]:
    if not is_classifier:
        return {"variable": scores[:, None]}
    table = scores if scores.ndim == 2 else np.stack([1 - scores, scores], axis=1)
    return {"label": table.argmax(axis=1), "probabilities": table}
