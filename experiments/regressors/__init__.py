"""Recurrent regressors on the running average task: made, measured, trained and measured again."""
