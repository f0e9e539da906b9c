"""pull: a workspace from a published dataset, the way back from push-hub."""
