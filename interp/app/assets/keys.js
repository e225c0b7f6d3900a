// Rows that are pressed like buttons answer the keys of buttons too.
document.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" || event.key === " ") && event.target.matches?.("tr.press")) {
    event.preventDefault();
    event.target.click();
  }
});
