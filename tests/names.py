"""A resolver whose answers a test chooses."""


class Names:
    """A resolver whose answers the test chooses."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError(f"Name or service not known: {host}")
        return self.answers[host]
