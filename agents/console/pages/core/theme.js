/** The switch between light and dark; without a choice, the system's setting holds. */

const KEY = "faultline-theme";

/** Which one is shown. */
function shownTheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/** Shows the other one, and remembers it in this browser. */
export function switchTheme() {
  const next = shownTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem(KEY, next);
  return next;
}
