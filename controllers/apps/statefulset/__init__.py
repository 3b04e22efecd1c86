"""The StatefulSet controller: what to do next is decided in `plan`, apart from the writes of `controller`."""
