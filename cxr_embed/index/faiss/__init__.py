"""A folder of cases on this machine: FAISS proposes neighbours, exact similarity decides."""
