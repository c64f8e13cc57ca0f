"""Bundles: one deployment in a directory or a file, whose every byte is verified before anything of it is used.

A bundle is a plain tar (POSIX ustar) in one canonical form, or a directory of the same files; `bundle.sha256` comes
first and covers all bytes behind it, `bundle.json` is the manifest with the digest of each other file, `bundle.sig`
its signature where there is one.
"""
