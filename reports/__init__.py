"""Tables, figures and the front, rebuilt from the MLflow record alone. Same record, same bytes."""
