"""Which pods are behind a Service: Endpoints and EndpointSlices, and the addresses of Services."""
