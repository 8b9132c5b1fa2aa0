masthead();
for (const section of [results, curves, rollouts, heldout, setup]) section();
document.addEventListener("keydown", (event) => event.key === "Escape" && hint(null));
document.addEventListener("scroll", () => hint(null), { passive: true });
document.documentElement.setAttribute("data-ready", "");
