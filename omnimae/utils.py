"""What `mmengine.hub.get_model` looks for in every package."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Do nothing: a registry imports its modules at the first look-up."""
