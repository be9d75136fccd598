"""The file that MLflow runs to load a logged model ("models from code")."""

from mlflow.models import set_model

from slantwise.pyfunc import ScoringModel

set_model(ScoringModel())
