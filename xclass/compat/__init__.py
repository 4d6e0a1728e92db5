"""Other libraries' calls on torch tensors, with their names, arguments, defaults and shapes.

>>> from xclass.compat import tf
>>> tf.sampled_softmax_loss.__name__
'sampled_softmax_loss'
"""

from xclass.compat import tf

__all__ = ["tf"]
