"""The batched environment in the shapes of other libraries; each imported only when asked for."""
