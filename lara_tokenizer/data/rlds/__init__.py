"""RLDS datasets as TFDS writes them and Open X-Embodiment is published, read without TensorFlow."""
