"""How notebooks run: their parameters, their execution by papermill, profiles and the graph of a run, the report."""
