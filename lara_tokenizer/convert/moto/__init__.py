"""Conversion of Moto's and LARA's latent motion tokenizers, both ways.

`layouts` reads the published layouts, `names` maps tensor names and `config` sizes and vision encoder; `read` converts
to this package's format, `write` to Moto's, with a `sidecar` of files that makes the way back lossless.
"""
