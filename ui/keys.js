// Ctrl+Enter (or Cmd+Enter) draws, Esc stops. An Esc that closes a menu or a full screen is theirs.
() => {
  const press = (id) => document.getElementById(id)?.click();

  const isTaken = (event) =>
    document.fullscreenElement || event.target.getAttribute?.("aria-expanded") === "true";

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      press("generate");
    } else if (event.key === "Escape" && !isTaken(event)) {
      press("stop");
    }
  }, true);
}
