"""Implementations of the operations: several forms that compute the same, and the choice among them by device."""
