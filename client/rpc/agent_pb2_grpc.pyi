from typing import Any

GRPC_GENERATED_VERSION: str

class RelayStub:
    Ask: Any
    def __init__(self, channel: Any) -> None: ...

class RelayServicer:
    def Ask(self, request_iterator: Any, context: Any) -> Any: ...

def add_RelayServicer_to_server(servicer: RelayServicer, server: Any) -> None: ...

class AdministratorStub:
    Call: Any
    def __init__(self, channel: Any) -> None: ...

class AdministratorServicer:
    def Call(self, request: Any, context: Any) -> Any: ...

def add_AdministratorServicer_to_server(servicer: AdministratorServicer, server: Any) -> None: ...
