"""The sections of a plan that advise: network, storage, security, scaling, monitoring, power."""
