"""The book that runs: pages whose formulas, numbers and figures are made by the code that stands in them."""
