// Ctrl+Enter (or Cmd+Enter) draws what the open tab is for, Esc stops it. An Esc that closes a menu or
// a full screen is theirs.
() => {
  const press = (...ids) =>
    ids
      .map((id) => document.getElementById(id))
      .find((button) => button && button.offsetParent !== null)
      ?.click();

  const isTaken = (event) =>
    document.fullscreenElement || event.target.getAttribute?.("aria-expanded") === "true";

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      press("generate", "make");
    } else if (event.key === "Escape" && !isTaken(event)) {
      press("stop", "stop-morph");
    }
  }, true);
}
