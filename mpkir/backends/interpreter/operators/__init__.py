"""Kernels of all operators; importing this package registers them."""

from mpkir.backends.interpreter.operators import attention as attention
from mpkir.backends.interpreter.operators import experts as experts
from mpkir.backends.interpreter.operators import norms as norms
from mpkir.backends.interpreter.operators import pointwise as pointwise
from mpkir.backends.interpreter.operators import products as products
from mpkir.backends.interpreter.operators import scalars as scalars
from mpkir.backends.interpreter.operators import tokens as tokens
from mpkir.backends.interpreter.operators import views as views
