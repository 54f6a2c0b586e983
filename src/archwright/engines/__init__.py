"""Model engines: the files they load, the processes they run in, and the one client that speaks to them.

Read in this order: `artefacts` (a model file gets here), `config` and `__main__` (an engine process starts),
`llamacpp` and `null` (what runs in it), `external` (an engine someone else runs), `client` (how all are asked).
"""
