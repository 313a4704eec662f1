/* Applies the chosen colours before anything is drawn: no module, as modules run after the first picture. */
(() => {
  const chosen = localStorage.getItem("faultline-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
