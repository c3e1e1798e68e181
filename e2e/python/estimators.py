"""Estimators as their users export them, with onnxruntime's outputs: estimators.py OUT.

scikit-learn through skl2onnx, XGBoost and LightGBM through onnxmltools, trained on data that scikit-learn carries.
"""

import sys
import warnings

import numpy as np
import lightgbm
import xgboost
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as MlFloats
from skl2onnx import to_onnx
from sklearn import (
    cluster,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

import cases

warnings.filterwarnings("ignore")
OUT = sys.argv[1]
X, CLASSES = datasets.load_iris(return_X_y=True)
X = X.astype(np.float32)
# Rows that were not seen in training, off any split between them.
ROWS = (X[::7] + np.float32(0.013)).astype(np.float32)
TARGET = (X @ np.array([0.4, -1.2, 0.7, 2.1]) + np.sin(X[:, 0])).astype(np.float32)

CLASSIFIERS = {
    "logistic": linear_model.LogisticRegression(max_iter=500),
    "sgd": linear_model.SGDClassifier(loss="log_loss", random_state=0),
    "ridge_classifier": linear_model.RidgeClassifier(),
    "lda": discriminant_analysis.LinearDiscriminantAnalysis(),
    "qda": discriminant_analysis.QuadraticDiscriminantAnalysis(),
    "gaussian_bayes": naive_bayes.GaussianNB(),
    "bernoulli_bayes": naive_bayes.BernoulliNB(binarize=2.5),
    "tree": tree.DecisionTreeClassifier(random_state=0),
    "forest": ensemble.RandomForestClassifier(20, random_state=0),
    "extra_trees": ensemble.ExtraTreesClassifier(20, random_state=0),
    "boosting": ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
    "histogram_boosting": ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0),
    "ada_boost": ensemble.AdaBoostClassifier(n_estimators=10, random_state=0),
    "bagging": ensemble.BaggingClassifier(n_estimators=5, random_state=0),
    "voting": ensemble.VotingClassifier(
        [("a", linear_model.LogisticRegression(max_iter=500)), ("b", naive_bayes.GaussianNB())], voting="soft", flatten_transform=False
    ),
    "svc": svm.SVC(probability=False, random_state=0),
    "nearest": neighbors.KNeighborsClassifier(5),
    "network": neural_network.MLPClassifier(hidden_layer_sizes=(8,), max_iter=400, random_state=0),
    "scaled": pipeline.make_pipeline(
        preprocessing.StandardScaler(), decomposition.PCA(3), linear_model.LogisticRegression()
    ),
    "polynomial": pipeline.make_pipeline(preprocessing.PolynomialFeatures(2), linear_model.LogisticRegression(max_iter=2000)),
}
REGRESSORS = {
    "linear": linear_model.LinearRegression(),
    "lasso": linear_model.Lasso(0.01),
    "huber": linear_model.HuberRegressor(),
    "svr": svm.SVR(),
    "nearest_regressor": neighbors.KNeighborsRegressor(3),
    "weighted_nearest": neighbors.KNeighborsRegressor(4, weights="distance"),
    "forest_regressor": ensemble.RandomForestRegressor(20, random_state=0),
    "histogram_regressor": ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=0),
    "gaussian_process": gaussian_process.GaussianProcessRegressor(alpha=0.1),
    "network_regressor": neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=400, random_state=0),
}


def write(name, model):
    cases.write(OUT, name, model, {model.graph.input[0].name: ROWS})


def scikit():
    for name, estimator in CLASSIFIERS.items():
        estimator.fit(X, CLASSES)
        options = {"zipmap": False} if name != "ridge_classifier" else None
        write(name, to_onnx(estimator, X[:1], options=options and {id(estimator): options}))
    for name, estimator in REGRESSORS.items():
        write(name, to_onnx(estimator.fit(X, TARGET), X[:1]))
    write("kmeans", to_onnx(cluster.KMeans(3, n_init=2, random_state=0).fit(X), X[:1]))
    write("isolation", to_onnx(ensemble.IsolationForest(n_estimators=10, random_state=0).fit(X), X[:1], target_opset={"": 17, "ai.onnx.ml": 3}))


def boosted():
    types = [("input", MlFloats([None, X.shape[1]]))]
    fit = {"n_estimators": 20, "max_depth": 4, "random_state": 0}
    models = {
        "xgboost": convert_xgboost(xgboost.XGBClassifier(**fit).fit(X, CLASSES), initial_types=types),
        "xgboost_binary": convert_xgboost(xgboost.XGBClassifier(**fit).fit(X, CLASSES == 1), initial_types=types),
        "xgboost_regressor": convert_xgboost(xgboost.XGBRegressor(**fit).fit(X, TARGET), initial_types=types),
        "lightgbm": convert_lightgbm(lightgbm.LGBMClassifier(**fit, verbose=-1).fit(X, CLASSES), initial_types=types, zipmap=False),
        "lightgbm_regressor": convert_lightgbm(lightgbm.LGBMRegressor(**fit, verbose=-1).fit(X, TARGET), initial_types=types),
    }
    for name, model in models.items():
        write(name, model)


if __name__ == "__main__":
    scikit()
    boosted()
