"""Machine models, one JSON file each; `mpkir.machine` reads them."""
