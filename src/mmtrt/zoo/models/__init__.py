"""The zoo's models; each module has a factory that `mmtrt.zoo.REGISTRY` names."""
