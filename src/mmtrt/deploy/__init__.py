"""Deploying a bundle on the machine that runs it, with the base install and the machine's own TensorRT alone.

A deployment is a directory::

    DIR/current -> versions/0002-vqa-1.1.0-0123456789ab     the one switch: renamed over, so it is the old or the new
    DIR/deployed.json -> current/deployed.json
    DIR/versions/NNNN-NAME-VERSION-DIGEST/
        bundle/         the bundle's files, as they were verified
        model.engine    what runs, with its manifest model.engine.json beside it
        deployed.json   what was verified, built, run and measured; `previous` is the version that stood before
    DIR/cache/          engines, timing caches and compiled kernels of this machine, by what went in
    DIR/.deploy.lock    held by the one deploy that works here; it also tells that the directory is ours

A version's directory appears whole, under its name, before `current` is switched; what a power cut leaves half is
swept by the next deploy.
"""
